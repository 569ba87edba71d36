// Galleries: what the slider, the class and the order choose, and the viewer that shows a picture large.
const viewer = document.querySelector(".viewer"), stage = viewer.querySelector(".stage");
const part = (of, whole) => whole ? (100 * of / whole).toFixed(1) + " %" : "–";
const count = number => number.toLocaleString("en-US");
const tally = (right, missed, wrong) => `${count(right)} right, ${count(missed)} missed, ${count(wrong)} wrong`;
let current = null;  // the figure in the viewer

class Gallery {
  constructor(section) {
    this.section = section;
    this.list = section.querySelector(".pictures");
    this.figures = [...this.list.children];
    this.controls = section.querySelector(".controls-inner");
    this.levels = {};
    for (const figure of this.figures) {
      figure.panels = figure.querySelector(".panels");
      figure.querySelector(".open").onclick = () => show(this, figure);
    }
    for (const threshold of section.querySelectorAll(".threshold")) this.listen(threshold);
    this.classes = section.querySelector(".class-choice");
    this.order = section.querySelector(".order-choice");
    if (this.classes) this.classes.onchange = () => this.choose();
    if (this.order) this.order.onchange = () => this.sort();
    for (const what of ["boxes", "masks", "names"]) {
      const choice = section.querySelector(`.${what}-choice`);
      if (choice) choice.onchange = () => {
        section.classList.toggle(`no-${what}`, !choice.checked);
        viewer.classList.toggle(`no-${what}`, !choice.checked);
      };
    }
    this.say();
  }
  listen(threshold) {
    const {run, mark, right, wrong, objects} = threshold.dataset, slider = threshold.querySelector("input");
    threshold.counts = {right: JSON.parse(right), wrong: JSON.parse(wrong), objects: JSON.parse(objects)};
    const move = level => {
      slider.value = this.levels[run] = level;
      threshold.querySelector(".level").textContent = (level / 100).toFixed(2);
      slider.setAttribute("aria-valuetext", (level / 100).toFixed(2));
      this.update();
    };
    this.levels[run] = +mark;
    slider.value = mark;
    slider.oninput = () => move(+slider.value);
    threshold.querySelector(".mark").onclick = () => move(+mark);
  }
  get chosen() { return this.classes ? this.classes.value : ""; }
  get visible() { return [...this.list.children].filter(figure => !figure.hidden); }
  choose() {
    for (const figure of this.figures)
      figure.hidden = this.chosen !== "" && !figure.dataset.classes.split(" ").includes(this.chosen);
    this.say();
    this.update();
    if (current && current.hidden && this.visible.length) show(this, this.visible[0]);
    else if (current) place(this);
  }
  sort() {
    const by = this.order.value, name = figure => figure.dataset.name;
    const figures = by === "worst" ? this.figures : by === "best" ? [...this.figures].reverse()
      : [...this.figures].sort((a, b) => name(a).localeCompare(name(b), undefined, {numeric: true}));
    this.list.append(...figures);
    if (current) place(this);
  }
  say() {
    const said = this.section.querySelector(".shown-count") || viewer.querySelector(".shown-count");
    if (said) said.textContent = this.chosen ? `${this.visible.length} of ${this.figures.length} pictures` : "";
  }
  update() {
    const chosen = this.chosen, sum = (rows, level) => rows.reduce((all, row, label) =>
      chosen === "" || label === +chosen ? all + (level === undefined ? row : row[level]) : all, 0);
    for (const threshold of this.controls.querySelectorAll(".threshold")) {
      const level = this.levels[threshold.dataset.run], counts = threshold.counts;
      const right = sum(counts.right, level), wrong = sum(counts.wrong, level), missed = sum(counts.objects) - right;
      threshold.querySelector(".reached > output").textContent =
        `F1 ${part(2 * right, 2 * right + wrong + missed)}, precision ${part(right, right + wrong)}, ` +
        `recall ${part(right, right + missed)}: ${tally(right, missed, wrong)}`;
    }
    for (const figure of this.figures) this.filter(figure, chosen);
  }
  filter(figure, chosen) {
    let objects = 0;
    const found = {};
    for (const panel of figure.panels.querySelectorAll("svg.shapes")) {
      const run = panel.dataset.run, truth = "truth" in panel.dataset, level = 100 * (this.levels[run] ?? 0);
      const seen = found[run] = truth ? found[run] : {right: 0, wrong: 0};
      for (const shape of panel.querySelectorAll("g")) {
        const {c, s, v} = shape.dataset, other = chosen !== "" && c !== chosen, reached = s !== undefined && +s >= level;
        shape.classList.toggle("off", other || !truth && run >= 0 && !reached);
        if (truth && run >= 0) shape.classList.toggle("lacking", v !== "neither" && !reached);
        if (other || v === "neither") continue;
        if (truth) objects++;
        else if (reached) seen[v || "right"]++;
      }
    }
    for (const told of (figure.told || figure).querySelectorAll(".tally [data-run]")) {
      const {right, wrong} = found[told.dataset.run];
      told.textContent = tally(right, objects - right, wrong);
    }
  }
}

function show(gallery, figure) {
  const first = !viewer.open;
  putBack();
  current = figure;
  figure.style.minHeight = figure.offsetHeight + "px";  // the page stays as long as it is
  stage.append(figure.panels);
  const caption = figure.querySelector("figcaption");
  if (caption) viewer.querySelector(".viewer-caption").append(caption);
  figure.told = viewer;
  if (first) {
    if (gallery.controls) viewer.querySelector(".viewer-controls").append(gallery.controls);
    for (const what of ["boxes", "masks", "names"])
      viewer.classList.toggle(`no-${what}`, gallery.section.classList.contains(`no-${what}`));
    viewer.gallery = gallery;
    viewer.showModal();
  }
  place(gallery);
}
function place(gallery) {
  const visible = gallery.visible;
  viewer.querySelector(".place").textContent = `${visible.indexOf(current) + 1} of ${visible.length}`;
}
function putBack() {
  if (!current) return;
  current.querySelector(".open").append(stage.firstElementChild);
  current.append(...viewer.querySelector(".viewer-caption").childNodes);
  current.style.minHeight = "";
  current.told = null;
  current = null;
}
function step(by) {
  const visible = viewer.gallery.visible;
  show(viewer.gallery, visible.at((visible.indexOf(current) + by) % visible.length));
}
viewer.onclose = () => {
  const last = current;
  putBack();
  const controls = viewer.querySelector(".controls-inner");
  if (controls) viewer.gallery.section.querySelector(".controls").append(controls);
  last.querySelector(".open").focus();
  last.scrollIntoView({block: "nearest"});
};
viewer.querySelector(".previous").onclick = () => step(-1);
viewer.querySelector(".next").onclick = () => step(1);
viewer.querySelector(".close").onclick = () => viewer.close();
viewer.onclick = event => { if (event.target === viewer || event.target === stage) viewer.close(); };
viewer.onkeydown = event => {
  if (event.target.matches("input[type=range], select")) return;  // there the arrows have another meaning
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else return;
  event.preventDefault();
};
document.querySelectorAll(".gallery").forEach(section => new Gallery(section));
