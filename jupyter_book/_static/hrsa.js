// Figures are drawn from the JSON beside their containers, each when it is first shown. Where a chapter was run several
// times (pairs, training runs) a menu says which run is shown: the cells of run n have the class tag_only-n.

// What figures draw with on a light page, and on a dark one. Hues are the same: they have one meaning.
const IN_THE_DARK = {"white": "#14181e", "#222222": "#dddddd", "#444444": "#bbbbbb", "#e4e4e4": "#3a3f47",
                     "#6b6b6b": "#a6a6a6", "#000000": "#ffffff"};
let onPaper = false;

function inTheme(text) {
  if (onPaper || document.documentElement.dataset.theme !== "dark") return text;
  return text.replace(/"(white|#[0-9a-f]{6})"/g, (whole, colour) => `"${IN_THE_DARK[colour] || colour}"`);
}

function drawAgain() {
  for (const place of document.querySelectorAll(".hrsa-plotly[data-drawn]")) {
    Plotly.purge(place);
    delete place.dataset.drawn;
    delete place.dataset.film;
    if (place.previousElementSibling?.classList.contains("hrsa-film")) place.previousElementSibling.remove();
  }
  drawShown();
}

function followTheme() {
  let shown = document.documentElement.dataset.theme;
  new MutationObserver(() => {
    if (shown !== document.documentElement.dataset.theme) drawAgain();
    shown = document.documentElement.dataset.theme;
  }).observe(document.documentElement, {attributeFilter: ["data-theme"]});
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => {
      onPaper = paper;
      if (document.documentElement.dataset.theme === "dark") drawAgain();
      else drawShown();
    });
  }
}

// Draws what is on the first screens at once, the rest when the browser has time; before printing, all.
function drawShown() {
  const waiting = [...document.querySelectorAll(".hrsa-plotly:not([data-drawn])")]
    .filter((place) => place.offsetParent !== null);  // not inside what is hidden
  const [near, far] = [[], []];
  for (const place of waiting) {
    (onPaper || place.getBoundingClientRect().top < 1.5 * window.innerHeight ? near : far).push(place);
  }
  near.forEach(draw);
  if (far.length) {
    (window.requestIdleCallback || setTimeout)(() => {
      if (!("drawn" in far[0].dataset)) draw(far[0]);
      drawShown();
    });
  }
}

function draw(place) {
  place.dataset.drawn = "";
  const text = place.parentElement.querySelector(`script.${place.dataset.figure}`).textContent;
  const figure = JSON.parse(inTheme(text));
  delete figure.layout.width;  // fixed in notebooks; here the figure follows the column
  if (figure.layout.sliders) setUpFilm(place, figure.layout);
  Plotly.newPlot(place, figure.data, figure.layout, {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false,  // its button would upload the chart
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  });
  place.on("plotly_click", ({ points: [point] }) => document.dispatchEvent(new CustomEvent("hrsa-point", { detail: {
    figure: figure.layout.meta.files, models: point.data.legendgroup, state: point.data.text?.[point.pointNumber],
  } })));
}

// A film's slider as the browser's own, which keys move too; `layout` loses plotly's.
function setUpFilm(place, layout) {
  const [{steps, currentvalue}] = layout.sliders;
  delete layout.sliders;
  const label = document.createElement("label");
  const slider = document.createElement("input");
  const shown = document.createElement("output");
  Object.assign(slider, {type: "range", min: 0, max: steps.length - 1, value: 0});
  const move = () => {
    const step = steps[slider.value];
    shown.textContent = `${currentvalue.prefix}${step.label}`;
    slider.setAttribute("aria-valuetext", shown.textContent);
    if (place.dataset.film) Plotly.restyle(place, ...step.args);
    place.dataset.film = slider.value;
  };
  slider.addEventListener("input", move);
  label.className = "hrsa-film";
  label.append(shown, slider);
  place.before(label);
  move();
}

function remembered(key, value) {  // a browser may forbid storage for files
  try {
    if (value !== undefined) localStorage.setItem(`hrsa-${key}`, value);
    return localStorage.getItem(`hrsa-${key}`);
  } catch {
    return null;
  }
}

function setUpSwitch(block) {
  const key = block.dataset.key;
  const menu = block.querySelector("select");
  const names = [...menu.options].map((option) => option.value);
  const cells = names.map((_, run) => document.querySelectorAll(`.tag_only-${run}`));
  const show = (name) => {
    menu.value = name;
    cells.forEach((own, run) => own.forEach((cell) => { cell.hidden = names[run] !== name; }));
    letScroll();
    drawShown();
  };
  const asked = () => decodeURIComponent((location.hash.match(`^#${key}=(.*)$`) || ["", ""])[1]);
  menu.addEventListener("change", () => {
    remembered(key, menu.value);
    history.replaceState(null, "", `#${key}=${encodeURIComponent(menu.value)}`);
    show(menu.value);
  });
  window.addEventListener("hashchange", () => { if (names.includes(asked())) show(asked()); });
  show([asked(), remembered(key)].find((name) => names.includes(name)) || names[0]);
}

// Headings of tables become buttons that sort: numbers by size, what is missing last.
function setUpSorting(table) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].textContent.trim().replace(/\u2212/g, "-").replace(/,(?=\d{3})/g, "");
      const sorted = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const [m, n] = [parseFloat(x), parseFloat(y)];
        if (Number.isNaN(m) !== Number.isNaN(n)) return Number.isNaN(m) ? 1 : -1;
        const order = Number.isNaN(m) ? x.localeCompare(y) : m - n;
        return up ? order : -order;
      });
      body.append(...sorted);
    });
  });
}

// Of a long table the first rows are shown until one asks for all; all of it can be saved. Paper has it whole.
function setUpLength(table) {
  const rows = table.tBodies[0].rows.length;
  if (rows <= 30) return;
  const line = document.createElement("p"), button = document.createElement("button");
  const save = document.createElement("a");
  const show = (short) => {
    table.classList.toggle("hrsa-short", short);
    button.textContent = short ? `Show all ${rows} rows` : "Show the first rows";
    button.setAttribute("aria-expanded", String(!short));
  };
  button.type = "button";
  button.addEventListener("click", () => show(!table.classList.contains("hrsa-short")));
  const cell = (one) => `"${one.textContent.trim().replaceAll('"', '""')}"`;
  const lines = [...table.rows].map((row) => [...row.cells].map(cell).join(","));
  save.href = URL.createObjectURL(new Blob([lines.join("\n")], {type: "text/csv"}));
  save.download = "table.csv";
  save.textContent = "data (CSV)";
  line.className = "hrsa-more";
  line.append(button, " · ", save);
  table.after(line);
  show(true);
}

// Tables of which one group is shown: menus choose it, and so does a click on its place in the figure that it is about.
function setUpChoices(block) {
  const parts = [...block.querySelectorAll(":scope > details")];
  const line = document.createElement("p");
  const menus = ["models", "state"].map((key) => {
    const menu = document.createElement("select"), label = document.createElement("label");
    menu.append(...[...new Set(parts.map((part) => part.dataset[key]))].map((name) => new Option(name, name)));
    label.append(`${key[0].toUpperCase()}${key.slice(1)} `, menu);
    line.append(label);
    return [key, menu];
  });
  const show = () => {
    for (const part of parts) {
      part.open = menus.every(([key, menu]) => part.dataset[key] === menu.value);
      part.hidden = !part.open;
    }
    letScroll();
  };
  line.className = "hrsa-menus";
  line.addEventListener("change", show);
  document.addEventListener("hrsa-point", ({ detail }) => {
    if (!detail.figure?.endsWith(`/${block.dataset.figure}`)) return;
    for (const [key, menu] of menus) {
      if ([...menu.options].some((option) => option.value === detail[key])) menu.value = detail[key];
    }
    show();
    block.scrollIntoView({ block: "nearest" });
  });
  block.prepend(line);
  show();
}

// A term of the glossary shows its definition while the pointer or the focus is on it, or the pointer on the
// definition; Escape takes it away. Without scripts it is the title of the link.
function setUpTerms() {
  const note = document.createElement("span");
  note.id = note.className = "hrsa-definition";
  note.setAttribute("role", "tooltip");
  let leaving;
  const hide = () => {
    note.previousElementSibling?.removeAttribute("aria-describedby");
    note.remove();
  };
  const stay = () => clearTimeout(leaving);
  const leave = () => { leaving = setTimeout(hide, 200); };  // time to reach the definition
  for (const link of document.querySelectorAll("a.hrsa-term")) {
    const said = link.title;
    link.removeAttribute("title");
    const show = () => {
      stay();
      hide();
      note.textContent = said;
      link.after(note);
      link.setAttribute("aria-describedby", note.id);
      note.style.left = note.style.top = "0";
      const page = note.closest("main").getBoundingClientRect(), here = note.getBoundingClientRect();
      const start = link.getClientRects()[0].left;  // a term may run over two lines
      note.style.left = `${Math.max(page.left, Math.min(start, page.right - here.width)) - here.left}px`;
      note.style.top = `${link.getBoundingClientRect().bottom - here.top}px`;
    };
    link.addEventListener("pointerenter", show);
    link.addEventListener("focus", show);
    link.addEventListener("pointerleave", leave);
    link.addEventListener("blur", leave);
  }
  note.addEventListener("pointerenter", stay);
  note.addEventListener("pointerleave", leave);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

// What the theme and Sphinx leave undone for readers who do not see the page or use no mouse.
function mendAccess() {
  document.querySelector(".bd-sidebar-primary")?.setAttribute("role", "complementary");
  document.querySelector(".bd-sidebar-primary")?.setAttribute("aria-label", "Chapters");
  document.querySelectorAll(".citation-list, .citation").forEach((element) => element.removeAttribute("role"));
}

function letScroll() {  // with the keys
  for (const block of document.querySelectorAll(".hrsa-table, .highlight pre, div.math, mjx-container")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  mendAccess();
  setUpTerms();
  document.querySelectorAll(".hrsa-table table").forEach(setUpSorting);
  document.querySelectorAll(".hrsa-table table").forEach(setUpLength);
  document.querySelectorAll(".hrsa-choices").forEach(setUpChoices);
  document.querySelectorAll(".hrsa-switch").forEach(setUpSwitch);
  letScroll();
  drawShown();
  followTheme();
});
