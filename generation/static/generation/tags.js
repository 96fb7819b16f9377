// Shows inputs of comma-separated tags as chips with suggestions from the catalogue. Without this script: a text field.
for (const input of document.querySelectorAll("input[data-tags]")) {
  const known = JSON.parse(input.dataset.tags), bits = new Set(JSON.parse(input.dataset.bits));
  const box = document.createElement("div"), typed = document.createElement("input"), list = document.createElement("datalist");
  box.className = "rt-chips rt-chip-box";
  list.id = `${input.id}-known`;
  list.append(...known.map((tag) => new Option(bits.has(tag) ? "checked in images" : "", tag)));
  typed.setAttribute("list", list.id);
  typed.setAttribute("aria-label", `Add to ${input.labels[0]?.textContent.trim() || "tags"}`);
  typed.placeholder = "Add a tag";
  let tags = split(input.value);

  function split(text) {
    return text.split(",").map((tag) => tag.trim().replace(/\s+/g, " ")).filter(Boolean);
  }

  function draw() {
    input.value = tags.join(", ");
    box.replaceChildren(...tags.map(chip), typed, list);
  }

  function chip(tag) {
    const button = document.createElement("button");
    const isBit = bits.has(tag.replace(/^not-/, "")), isKnown = isBit || known.includes(tag);
    button.type = "button";
    button.className = `rt-chip${isBit ? " rt-bit" : ""}${isKnown ? "" : " rt-new"}`;
    button.title = isBit ? "Checked in images by the detector" : isKnown ? "Not checked in images" : "A new tag";
    button.setAttribute("aria-label", `Remove ${tag} (${button.title})`);
    button.textContent = `${tag} ×`;
    button.addEventListener("click", () => { tags = tags.filter((one) => one !== tag); draw(); typed.focus(); });
    return button;
  }

  function take() {
    const added = split(typed.value);
    typed.value = "";
    if (added.length) {
      tags = [...new Set([...tags, ...added])];
      draw();
      typed.focus();
    }
  }

  typed.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === ",") {
      if (typed.value || event.key === ",") event.preventDefault();
      take();
    } else if (event.key === "Backspace" && !typed.value && tags.length) {
      tags.pop();
      draw();
      typed.focus();
    }
  });
  typed.addEventListener("change", take);
  input.form?.addEventListener("submit", take);
  input.hidden = true;
  input.after(box);
  draw();
}
