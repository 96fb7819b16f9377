// Names, roles and levels that the libraries of the admin leave out, for screen readers.
"use strict";

// SimpleBar calls every scrolling region the same. It starts after this.
const REGIONS = { "#nav-sidebar-apps": "Menu", "[data-simplebar]:has(#result_list)": "Rows", "#changelist-filter [data-simplebar]": "Filters" };

function nameRegions() {
  for (const [selector, name] of Object.entries(REGIONS))
    for (const region of document.querySelectorAll(selector)) region.dataset.simplebarAriaLabel = name;
}

// A field of Select2 has the name of the select that it stands for: its label's, or its filter's heading.
function nameSelects() {
  for (const select of document.querySelectorAll(".select2-hidden-accessible")) {
    const name = (select.labels[0] ?? select.closest("#changelist-filter div:has(> h3)")?.querySelector("h3"))?.textContent.trim();
    const fields = select.nextElementSibling?.querySelectorAll(".select2-search__field, [role=combobox], [role=textbox]") ?? [];
    if (name) for (const field of fields) field.setAttribute("aria-label", name);
  }
}

function nameTips() {
  for (const tip of document.querySelectorAll(".help-tooltip[aria-label]")) tip.setAttribute("role", "img");
}

// Shown only by a script that can copy: browsers allow it over HTTPS and on this machine.
function offerCopies() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
      button.textContent = "Copied";
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  offerCopies();
  nameRegions();
  for (const title of document.querySelectorAll("#changelist-filter h3")) title.setAttribute("aria-level", "2");
  // The column of marks in the preview of an import has no heading.
  for (const cell of document.querySelectorAll("thead th:empty")) {
    const plain = document.createElement("td");
    plain.className = cell.className;
    cell.replaceWith(plain);
  }
  // Django makes these fields when the page is ready, and again where a row is added.
  new MutationObserver(() => {
    nameSelects();
    nameTips();
  }).observe(document.body, { childList: true, subtree: true });
  nameSelects();
  nameTips();
});
