// Enhancements of the page: live events of unfinished jobs, pictures in a dialog, arrow keys, error messages.
// Without this script htmx polls jobs every two seconds, and without htmx the page reloads.
"use strict";
(() => {
  const STREAMS = 2; // over HTTP/1.1 a browser opens six connections to a host, shared by all its tabs
  const ENDS = ["succeeded", "failed", "canceled", "problem"];
  const streams = new Map(); // by card

  // --- jobs -------------------------------------------------------------------------------------------------------
  function watch() {
    for (const card of streams.keys()) {
      if (!card.isConnected || document.hidden) stop(card);
    }
    if (document.hidden) return;
    for (const card of document.querySelectorAll("[data-events]")) {
      if (streams.size < STREAMS && !streams.has(card)) streams.set(card, subscribe(card));
    }
  }

  function subscribe(card) {
    const source = new EventSource(card.dataset.events);
    const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
    on("snapshot", (job) => show(card, job.status, job.progress));
    on("progress", (now) => show(card, "running", now.percent));
    on("preview", (preview) => {
      const picture = card.querySelector(`img[data-index="${preview.index}"]`);
      if (!picture) return;
      picture.src = `data:image/${preview.format};base64,${preview.b64_json}`;
      picture.hidden = false;
    });
    on("status", (job) => show(card, job.status, 0));
    for (const name of ENDS) {
      on(name, () => {
        source.close(); // otherwise it reconnects
        delete card.dataset.events;
        refresh(card);
      });
    }
    return source;
  }

  function stop(card) {
    streams.get(card).close();
    streams.delete(card);
  }

  function show(card, status, percent) {
    const now = card.querySelector(".now");
    if (!now) return;
    now.querySelector("progress").value = percent;
    const said = now.querySelector(".percent");
    if (said) said.textContent = `${percent} %`;
    if (now.dataset.status !== status) refresh(card);
    now.dataset.status = status;
  }

  // Fetch the job's state, or its images when it has finished.
  function refresh(card) {
    const now = card.querySelector(".now");
    if (now) htmx.trigger(now, "moved");
  }

  document.addEventListener("visibilitychange", watch);
  addEventListener("pagehide", () => [...streams.keys()].forEach(stop));
  addEventListener("pageshow", watch);
  document.addEventListener("htmx:afterSettle", watch);

  // The last preview stays behind the image until that is loaded.
  let previews = {};
  document.addEventListener("htmx:beforeSwap", (event) => {
    const card = event.detail.target.closest(".card");
    previews = {};
    for (const picture of card ? card.querySelectorAll(".forming img[src]") : []) previews[picture.dataset.index] = picture.src;
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    for (const picture of event.detail.elt.querySelectorAll("figure:not(.forming) img")) {
      const preview = previews[picture.dataset.index];
      if (preview) picture.style.backgroundImage = `url(${preview})`;
    }
  });

  // --- one picture, and several ---------------------------------------------------------------------------------
  const lightbox = document.getElementById("lightbox");

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "lightbox-content") return;
    if (!lightbox.open) lightbox.showModal();
    lightbox.scrollTop = 0;
    lightbox.querySelector(".beside a, button").focus({ preventScroll: true });
  });
  lightbox.addEventListener("close", () => document.getElementById("lightbox-content").replaceChildren());
  lightbox.addEventListener("click", (event) => {
    if (event.target === lightbox) lightbox.close(); // beside the dialog
  });

  // A click with one of these keys opens another tab.
  document.addEventListener("click", (event) => {
    const isElsewhere = event.ctrlKey || event.metaKey || event.shiftKey;
    if (isElsewhere && event.target.closest('a[hx-target="#lightbox-content"]')) event.stopPropagation();
  }, { capture: true });

  function turn(way) {
    const link = lightbox.querySelector(`a[rel="${way}"]`);
    if (link) link.click();
  }

  lightbox.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn("prev");
    if (event.key === "ArrowRight") turn("next");
  });
  const SWIPE_PIXELS = 50;
  let from = null;
  lightbox.addEventListener("touchstart", (event) => {
    from = event.touches.length === 1 ? event.touches[0].clientX : null;
  }, { passive: true });
  lightbox.addEventListener("touchend", (event) => {
    const moved = from === null ? 0 : event.changedTouches[0].clientX - from;
    if (Math.abs(moved) > SWIPE_PIXELS) turn(moved > 0 ? "prev" : "next");
  });

  // Response to a favourite button. The picture may be both in the gallery and in the dialog.
  document.addEventListener("marked", (event) => {
    for (const button of document.querySelectorAll(`[data-mark="${event.detail.image}"]`)) {
      button.setAttribute("aria-pressed", event.detail.is_favourite);
    }
  });

  function count() {
    const form = document.getElementById("chosen");
    if (!form) return;
    const chosen = document.querySelectorAll("[name=image]:checked").length;
    form.querySelector(".count").textContent = chosen === 1 ? "1 picture chosen" : `${chosen} pictures chosen`;
  }
  document.addEventListener("change", (event) => event.target.name === "image" && count());
  document.addEventListener("reset", () => setTimeout(count));
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-chooses-all]")) return;
    for (const box of document.querySelectorAll(".choose input")) box.checked = true;
    count();
  });
  addEventListener("pageshow", count); // the browser restores checkboxes

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copies]");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
    document.getElementById("announced").textContent = button.textContent = "Copied";
  });
  document.documentElement.classList.add("has-script");

  // --- the form ---------------------------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" || event.target.id !== "text") return;
    const radios = [...document.querySelectorAll(".variants input[type=radio]")];
    const first = radios.find((radio) => radio.checked) || radios[0];
    if (!first) return;
    event.preventDefault();
    first.focus();
  });

  // Text typed before htmx was ready, or restored by the browser.
  document.addEventListener("htmx:load", () => {
    const field = document.getElementById("text");
    if (field && field.value !== field.defaultValue) htmx.trigger(field, "search");
  }, { once: true });

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!event.detail.elt.matches(".now")) trouble("");
    if (event.detail.elt.id !== "create") return;
    for (const said of event.detail.elt.querySelectorAll(".error")) said.remove();
    for (const field of event.detail.elt.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  });

  // On a phone a new card may be below the visible part, and the first invalid field above.
  document.addEventListener("htmx:afterSwap", (event) => {
    const form = event.detail.requestConfig.elt;
    if (event.detail.target.id === "open" && event.detail.xhr.status < 400) event.detail.target.firstElementChild.scrollIntoView({ block: "nearest" });
    const wrong = form.id === "create" && document.querySelector("#create [aria-invalid]");
    if (wrong && !document.querySelector("#create [autofocus]")) wrong.focus();
  });

  // --- messages ---------------------------------------------------------------------------------------------------
  const UNREACHABLE = "The server cannot be reached. Your input is kept.";
  const place = document.getElementById("trouble");

  function trouble(said) {
    place.textContent = said;
    place.hidden = !said;
  }

  document.addEventListener("announced", (event) => {
    document.getElementById("announced").textContent = event.detail.value;
  });
  document.addEventListener("trouble", (event) => trouble(event.detail.value));
  document.addEventListener("htmx:sendError", () => trouble(UNREACHABLE));
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.successful && place.textContent === UNREACHABLE) trouble("");
  });
  document.addEventListener("htmx:responseError", (event) => {
    const { xhr, elt } = event.detail;
    if (elt.matches(".now") && [404, 410].includes(xhr.status)) elt.closest(".card").remove(); // deleted meanwhile
    else if (!xhr.getResponseHeader("HX-Trigger")) trouble("The request failed. Your input is kept.");
  });

  watch();
})();
