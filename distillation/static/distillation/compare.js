// Sliders over two pictures: the upper one is shown up to the slider's position. Without scripts half of each is shown.
for (const figure of document.querySelectorAll(".rt-compared")) {
  const slider = figure.querySelector("input"), over = figure.querySelector(".rt-over");
  const cut = () => { over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; };
  slider.addEventListener("input", cut);
  figure.querySelector(".rt-stack").addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && event.buttons !== 1) return;
    const box = event.currentTarget.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    cut();
  });
  cut();
}
