// Page of a run: loss curve of each stage and the latest sample sheet, polled while the run is open.
(() => {
  const before = JSON.parse(document.getElementById("run-now").textContent);
  const PAUSE_MS = 2000, PAUSE_AFTER_ERROR_MS = 5000, WIDTH = 320, HEIGHT = 96, EDGE = 4;
  const SVG = "http://www.w3.org/2000/svg";

  function element(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function figure({ stage, steps, values }) {
    const first = steps[0], last = steps[steps.length - 1];
    const low = Math.min(...values), high = Math.max(...values);
    const x = (step) => EDGE + ((step - first) / (last - first || 1)) * (WIDTH - 2 * EDGE);
    const y = (value) => HEIGHT - EDGE - ((value - low) / (high - low || 1)) * (HEIGHT - 2 * EDGE);
    const words = `${stage}: loss ${values[values.length - 1].toPrecision(3)} at step ${last}, from ${values[0].toPrecision(3)}`;
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words });
    const points = steps.map((step, place) => `${x(step)},${y(values[place])}`).join(" ");
    svg.append(element("polyline", { points, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }));
    const made = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = words;
    made.append(svg, caption);
    return made;
  }

  let shown = "";

  function show(samples) {
    const place = document.getElementById("run-samples");
    place.hidden = !samples;
    if (!samples || samples.version === shown) return;
    shown = samples.version;
    const image = place.querySelector("img");
    image.src = `${samples.url}?${samples.version}`;
    image.alt = `Teacher's images above, student's below, from the same noise: ${samples.texts.join("; ")}`;
    place.querySelector("figcaption").textContent =
      `${samples.stage}, step ${samples.step} of ${samples.steps}. Teacher above, student below, from the same noise, which is not in the training data.`;
  }

  function draw(now) {
    document.getElementById("run-curves").replaceChildren(...now.curves.map(figure));
    show(now.samples);
  }

  async function look() {
    let pause = PAUSE_MS;
    try {
      const answer = await fetch(before.url, { headers: { Accept: "application/json" } });
      if (answer.redirected || answer.status === 403) return; // logged out
      const now = await answer.json();
      if (now.status !== before.status && !(now.is_open && before.is_open)) return location.reload();
      document.getElementById("run-progress").value = now.percent;
      document.getElementById("run-percent").textContent = `${now.percent.toFixed(1)} %`;
      document.getElementById("run-stage").textContent = `${now.stage}, slice ${now.slice}, ${now.status}`;
      draw(now);
    } catch {
      pause = PAUSE_AFTER_ERROR_MS;
    }
    setTimeout(look, pause);
  }

  draw(before);
  if (before.is_open) setTimeout(look, PAUSE_MS);
})();
