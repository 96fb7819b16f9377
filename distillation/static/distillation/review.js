// Keys of the review of examples: those of the elements with data-key. Loads the next picture ahead.
(() => {
  let isLeaving = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const found = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!found || isLeaving) return;
    isLeaving = true; // a second press would decide on the same example
    event.preventDefault();
    found.click();
  });
  window.addEventListener("pageshow", () => { isLeaving = false; });
  const following = document.getElementById("review")?.dataset.following;
  if (following) new Image().src = following;
})();
