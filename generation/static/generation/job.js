// Page of an unfinished job: poll it, reload when its status or attempt has changed.
(() => {
  const before = JSON.parse(document.getElementById("job-now").textContent);
  if (before.is_terminal) return;
  const PAUSE_MS = 1000, PAUSE_AFTER_ERROR_MS = 5000;

  async function poll() {
    let pause = PAUSE_MS;
    try {
      const answer = await fetch(before.url, { headers: { Accept: "application/json" } });
      if (answer.redirected || answer.status === 403) return; // logged out
      const now = await answer.json();
      if (now.status !== before.status || now.attempt !== before.attempt) return location.reload();
      document.getElementById("job-progress").value = now.percent;
      document.getElementById("job-percent").textContent = `${now.percent} %`;
    } catch {
      pause = PAUSE_AFTER_ERROR_MS;
    }
    setTimeout(poll, pause);
  }
  setTimeout(poll, PAUSE_MS);
})();
