// Page of a design: its progress, polled while it is open.
(() => {
  const before = JSON.parse(document.getElementById("design-now").textContent);
  const PAUSE_MS = 2000, PAUSE_AFTER_ERROR_MS = 5000;

  async function look() {
    let pause = PAUSE_MS;
    try {
      const answer = await fetch(before.url, { headers: { Accept: "application/json" } });
      if (answer.redirected || answer.status === 403) return; // logged out
      const now = await answer.json();
      if (now.status !== before.status && !(now.is_open && before.is_open)) return location.reload();
      const live = document.getElementById("design-live");
      if (!live.contains(document.activeElement)) live.innerHTML = now.html; // of our own template
    } catch {
      pause = PAUSE_AFTER_ERROR_MS;
    }
    setTimeout(look, pause);
  }

  if (before.is_open) setTimeout(look, PAUSE_MS);
})();
