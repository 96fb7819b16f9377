// Parts of a page with data-live: the URL of JSON {html, is_over}, polled until it is over.
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
      } catch { /* unreachable for a moment: polled again */ }
      setTimeout(look, PAUSE_MS);
    };
    setTimeout(look, PAUSE_MS);
  }
})();
