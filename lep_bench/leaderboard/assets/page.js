"use strict";
// Everything that comes from the data is set as textContent: names and answers are somebody else's.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (name, text, kind) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};

// Sorting: tablesort does it per table body, which here is a family; rows without a number stay last either way.
const number = (text) => { const found = parseFloat(text); return Number.isNaN(found) ? -Infinity : found; };
Tablesort.extend("number", () => false, (a, b) => (number(a) < number(b)) - (number(a) > number(b)));
Tablesort.extend("text", () => false, (a, b) => b.localeCompare(a));
for (const table of document.querySelectorAll(".wide table")) {
  new Tablesort(table);
  for (const head of table.tHead.rows[0].cells) {
    head.addEventListener("keydown", (event) => {
      if (event.key === " ") { event.preventDefault(); head.click(); }
    });
  }
  table.addEventListener("afterSort", () => {
    const head = table.querySelector("thead [aria-sort]");
    for (const body of table.tBodies) {
      for (const row of [...body.rows]) {
        if (!row.matches(".family") && !row.cells[head.cellIndex].hasAttribute("data-sort")) body.append(row);
      }
    }
    $("count").textContent = `Sorted by ${head.textContent}, ${head.getAttribute("aria-sort")}.`;
  });
}

// Filtering.
const rows = [...document.querySelectorAll("tr[data-row]")];
function filter() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of rows) {
    const name = data.names[row.dataset.row].toLowerCase();
    const fits = words.every((word) => name.includes(word))
      && (!$("family").value || row.dataset.family === $("family").value) && (!$("stage").value || row.dataset.stage === $("stage").value);
    row.hidden = !fits;
    left += fits;
  }
  for (const head of document.querySelectorAll("tr.family")) {
    head.hidden = ![...head.parentElement.rows].some((row) => row !== head && !row.hidden);
  }
  $("count").textContent = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
}
$("filter").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["words", "family", "stage"]) $(id).addEventListener("input", filter);
const wide = document.querySelectorAll("thead th.task").length / Math.max(1, document.querySelectorAll(".wide").length) > 8;
$("tasks").checked = !wide && window.innerWidth > 640;
const tasks = () => document.body.classList.toggle("no-tasks", !$("tasks").checked);
$("tasks").addEventListener("change", tasks);
tasks();
filter();

// One model.
function lines(part) {
  const table = make("table"), head = part.head.length ? table.createTHead().insertRow() : null;
  for (const label of part.head) { const cell = make("th", label); cell.scope = "col"; head.append(cell); }
  const body = table.createTBody();
  for (const line of part.lines) {
    const row = body.insertRow();
    line.forEach((text, i) => { const cell = make(i ? "td" : "th", text); if (!i) cell.scope = "row"; row.append(cell); });
  }
  return table;
}
function open(name) {
  if (!Object.hasOwn(data.models, name)) return;
  $("model-h").textContent = data.names[name];
  $("model-how").textContent = data.conditions[parseInt(name, 10)];
  const parts = data.models[name].map((part) => {
    const box = make("div", undefined, "part");
    box.append(make("h3", part.title), lines(part));
    return box;
  });
  if (data.tasks.some((task) => Object.hasOwn(task.models, name))) {
    const button = make("button", "Its answers");
    button.type = "button";
    button.addEventListener("click", () => {
      $("model").close();
      choose(name);
      $("samples").scrollIntoView();
      $("samples").focus();
    });
    parts.unshift(button);
  }
  $("model-parts").replaceChildren(...parts);
  $("model").showModal();
  $("model").scrollTop = 0;
  $("model-h").focus();
  try { history.replaceState(null, "", "#model=" + encodeURIComponent(name)); } catch { /* some browsers refuse it for files */ }
}
for (const row of rows) row.querySelector(".open").addEventListener("click", () => open(row.dataset.row));
$("close").addEventListener("click", () => $("model").close());
$("model").addEventListener("close", () => {
  try { history.replaceState(null, "", "#table"); } catch { /* as above */ }
});

// Answers.
const PAGE = 20;
let shown = PAGE;
const option = (value, label) => { const node = make("option", label); node.value = value; return node; };
const task = () => data.tasks[$("task").selectedIndex];
const twice = (name) => Object.values(data.names).filter((one) => one === data.names[name]).length > 1;
const label = (name) => data.names[name] + (twice(name) ? ` (${data.conditions[parseInt(name, 10)]})` : "");
const FILTERS = {
  all: ["all", () => true],
  right: ["A right", (a) => a === 1],
  wrong: ["A not right", (a) => a !== null && a < 1],
  differs: ["A and B differ", (a, b) => a !== b],
  better: ["A better than B", (a, b, graded) => a !== null && b !== null && (graded ? a > b : a < b)],
  worse: ["B better than A", (a, b, graded) => a !== null && b !== null && (graded ? a < b : a > b)],
};
function keep(select, nodes, wanted) {
  select.replaceChildren(...nodes);
  if ([...select.options].some((one) => one.value === wanted)) select.value = wanted;
}
function models() {
  const names = Object.keys(task().models), a = $("a").value, b = $("b").value;
  keep($("a"), names.map((name) => option(name, label(name))), a || names[0]);
  keep($("b"), [option("", "none"), ...names.map((name) => option(name, label(name)))], b);
  const usable = Object.entries(FILTERS).filter(([key]) => ($("b").value || !["differs", "better", "worse"].includes(key))
    && (task().graded || !["right", "wrong"].includes(key)));
  keep($("show"), usable.map(([key, [words]]) => option(key, words)), $("show").value);
}
function choose(name) {
  const held = data.tasks.findIndex((one) => Object.hasOwn(one.models, name));
  if (!Object.hasOwn(task().models, name)) $("task").selectedIndex = held;
  models();
  $("a").value = name;
  show();
}
function answer(name, i) {
  const own = task().models[name], score = own.scores[i], graded = task().graded, box = make("div");
  box.append(make("p", label(name), "row"));
  if (score === null) { box.append(make("p", "not asked")); return box; }
  if (graded) box.className = score === 1 ? "right" : "wrong";
  box.append(make("p", !graded ? `${score} bits per byte` : score === 1 ? "✓ right" : score === 0 ? "✗ wrong" : `score ${score}`, "verdict"));
  const text = task().strings[own.answers[i]];
  if (text) box.append(make("div", text, "text"));
  else if (graded) box.append(make("p", "(empty)", "row"));
  if (own.texts[i] >= 0) {
    const more = make("details");
    more.append(make("summary", "whole text"), make("div", task().strings[own.texts[i]], "text"));
    box.append(more);
  }
  return box;
}
function item(i) {
  const [number, gold, question] = task().items[i], card = make("li"), b = $("b").value;
  if (question >= 0) {
    const asked = make("details");
    asked.open = task().strings[question].length < 600;
    asked.append(make("summary", "question"), make("div", task().strings[question], "text"));
    card.append(asked);
  }
  card.prepend(make("p", `row ${number}, ${task().graded ? "reference" : "text"}:`, "row"), make("div", task().strings[gold], "text"));
  const pair = make("div", undefined, b ? "pair" : "pair one");
  pair.append(answer($("a").value, i), ...(b ? [answer(b, i)] : []));
  card.append(pair);
  return card;
}
function show() {
  const a = task().models[$("a").value].scores, b = $("b").value ? task().models[$("b").value].scores : null;
  const fits = FILTERS[$("show").value][1];
  const found = task().items.map((_, i) => i).filter((i) => fits(a[i], b && b[i], task().graded));
  $("items").replaceChildren(...found.slice(0, shown).map(item));
  $("more").hidden = found.length <= shown;
  const few = task().items.length < task().of ? `, those first where the models differ most; ${task().of} in all` : "";
  const asked = task().asked ? ` Questions as put to ${task().asked}.` : " The questions are not stored here: lep-bench prompts shows them.";
  $("about").textContent = `${found.length} of ${task().items.length} items on this page${few}.${asked}`;
}
if (data.tasks.length) {
  $("task").append(...data.tasks.map((one) => option(one.task, one.label)));
  models();
  show();
  $("browser").addEventListener("submit", (event) => event.preventDefault());
  $("browser").addEventListener("input", () => { shown = PAGE; models(); show(); });
  $("more").addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    show();
    const next = $("items").children[first];
    if (next) { next.tabIndex = -1; next.focus(); }
  });
} else {
  $("browser").hidden = true;
  $("about").textContent = "No answers were put on this page.";
}
const asked = location.hash.match(/^#model=(.+)$/);
if (asked) {
  try { open(decodeURIComponent(asked[1])); } catch { /* no model's name */ }
}
