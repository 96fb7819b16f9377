// Accessible names, roles and levels that the admin's libraries omit.
"use strict";

// SimpleBar, which starts after this, gives all scrolling regions the same name.
const REGIONS = { "#nav-sidebar-apps": "Menu", "[data-simplebar]:has(#result_list)": "Rows", "#changelist-filter [data-simplebar]": "Filters" };

function nameRegions() {
  for (const [selector, name] of Object.entries(REGIONS))
    for (const region of document.querySelectorAll(selector)) region.dataset.simplebarAriaLabel = name;
}

// Name the fields of Select2 like the select that they replace: by its label or its filter's heading.
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

// Show copy buttons only if the clipboard is available: browsers require HTTPS or localhost.
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
  // The first column in the preview of an import has no heading.
  for (const cell of document.querySelectorAll("thead th:empty")) {
    const plain = document.createElement("td");
    plain.className = cell.className;
    cell.replaceWith(plain);
  }
  // Django creates these fields when the page is ready and when a row is added.
  new MutationObserver(() => {
    nameSelects();
    nameTips();
  }).observe(document.body, { childList: true, subtree: true });
  nameSelects();
  nameTips();
});
