// Parts of a page with data-live: the address of JSON {html, is_over}, asked for again until it is over.
(() => {
  const PAUSE_MS = 5000;
  for (const place of document.querySelectorAll("[data-live]")) {
    const look = async () => {
      try {
        const answer = await fetch(place.dataset.live, { headers: { Accept: "application/json" } });
        if (answer.redirected || answer.status === 403) return; // logged out
        const now = await answer.json();
        if (now.is_over) return location.reload();
        place.innerHTML = now.html; // of our own template
      } catch { /* away for a moment: asked again */ }
      setTimeout(look, PAUSE_MS);
    };
    setTimeout(look, PAUSE_MS);
  }
})();
