// Page of a run: progress, the loss curve of each stage and the newest sample sheet, polled while the run is open.
(() => {
  const before = JSON.parse(document.getElementById("run-now").textContent);
  const PAUSE_MS = 2000, PAUSE_AFTER_ERROR_MS = 5000;
  const WIDTH = 360, HEIGHT = 180, LEFT = 52, RIGHT = 12, TOP = 12, BOTTOM = 26;
  const LOGARITHMIC_FROM = 20; // the greatest value by the least
  const SVG = "http://www.w3.org/2000/svg";
  const pointed = new Map(); // by stage: the place of the point that a person looks at

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const number = (value) => (value !== 0 && (Math.abs(value) < 0.01 || Math.abs(value) >= 10000) ? value.toExponential(1) : String(Number(value.toPrecision(3))));

  function figure({ stage, steps, values }) {
    const first = steps[0], last = steps[steps.length - 1];
    const low = Math.min(...values), high = Math.max(...values);
    const isLogarithmic = low > 0 && high / low >= LOGARITHMIC_FROM;
    const scale = isLogarithmic ? Math.log : (value) => value;
    const x = (step) => LEFT + ((step - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - ((scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (HEIGHT - TOP - BOTTOM);
    const words = `${stage}: loss ${number(values[values.length - 1])} at step ${last}, from ${number(values[0])}`;
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words, tabindex: 0 });
    const middle = isLogarithmic ? Math.sqrt(low * high) : (low + high) / 2;
    for (const value of high > low ? [low, middle, high] : [low]) {
      svg.append(element("line", { class: "rt-grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
      svg.append(element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
    }
    for (const [step, anchor] of [[first, "start"], [last, "end"]])
      svg.append(element("text", { x: x(step), y: HEIGHT - 8, "text-anchor": anchor }, `step ${step}`));
    const points = steps.map((step, place) => `${x(step)},${y(values[place])}`).join(" ");
    svg.append(element("polyline", { points, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }));
    const dot = element("circle", { r: 4, fill: "currentColor", visibility: "hidden" });
    svg.append(dot);
    const made = document.createElement("figure");
    const caption = document.createElement("figcaption");

    function point(place) {
      pointed.set(stage, place);
      if (place === null) {
        dot.setAttribute("visibility", "hidden");
        caption.textContent = words + (isLogarithmic ? " (logarithmic scale)" : "");
        return;
      }
      dot.setAttribute("visibility", "visible");
      dot.setAttribute("cx", x(steps[place]));
      dot.setAttribute("cy", y(values[place]));
      caption.textContent = `${stage}: loss ${number(values[place])} at step ${steps[place]}`;
    }

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * WIDTH;
      point(steps.reduce((best, step, place) => (Math.abs(x(step) - at) < Math.abs(x(steps[best]) - at) ? place : best), 0));
    });
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("blur", () => point(null));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const from = pointed.get(stage) ?? steps.length - 1 - move;
      point(Math.min(steps.length - 1, Math.max(0, from + move)));
    });
    point(pointed.get(stage) < steps.length ? pointed.get(stage) : null);
    made.append(svg, caption);
    return made;
  }

  let shown = "", drawn = "";

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
    const curves = JSON.stringify(now.curves);
    const place = document.getElementById("run-curves");
    // A curve that a person looks at with the keyboard is not replaced.
    if (curves !== drawn && !place.contains(document.activeElement)) {
      drawn = curves;
      place.replaceChildren(...now.curves.map(figure));
    }
    show(now.samples);
  }

  let html = before.html;

  function renew(next) {
    if (next === html) return;
    html = next;
    const live = document.getElementById("run-live");
    const isOpen = live.querySelector("details").open, isFocused = live.contains(document.activeElement);
    live.innerHTML = html; // of our own template
    live.querySelector("details").open = isOpen;
    if (isFocused) live.querySelector("summary").focus();
  }

  async function look() {
    let pause = PAUSE_MS;
    try {
      const answer = await fetch(before.url, { headers: { Accept: "application/json" } });
      if (answer.redirected || answer.status === 403) return; // logged out
      const now = await answer.json();
      if (now.status !== before.status && !(now.is_open && before.is_open)) return location.reload();
      renew(now.html);
      draw(now);
    } catch {
      pause = PAUSE_AFTER_ERROR_MS;
    }
    setTimeout(look, pause);
  }

  draw(before);
  if (before.is_open) setTimeout(look, PAUSE_MS);
})();
