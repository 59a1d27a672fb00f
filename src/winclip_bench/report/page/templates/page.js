"use strict";
// Sorting, filtering, copying and enlarging; everything else on the page works without.

const cellsOf = (row) => [...row.cells];
const textOf = (cell) => (cell.querySelector(".value") || cell).textContent.replace(/\s+/g, " ").trim();

function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.classList.contains("missing")) return null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : textOf(cell);
}

function sort(table, column, ascending) {
  const order = (a, b) => {
    const [x, y] = [valueOf(a, column), valueOf(b, column)];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last, either way
    const difference = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
    return ascending ? difference : -difference;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const isText = !head.classList.contains("number"); // of numbers the best come first
      sort(table, column, before ? before === "descending" : isText);
    });
  });
}

const say = (text) => { document.getElementById("said").textContent = text; };

function filter() {
  const words = document.getElementById("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = [...document.querySelectorAll("select[data-column]")].filter((select) => select.value);
  const rows = [...document.getElementById("overview").tBodies[0].rows];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = (select) =>
      cellsOf(row).some((cell) => cell.dataset.column === select.dataset.column && textOf(cell) === select.value);
    row.hidden = !(words.every((word) => text.includes(word)) && chosen.every(fits));
  }
  const left = rows.filter((row) => !row.hidden).length;
  say(left === rows.length ? "" : `${left} of ${rows.length} rows`);
}

if (document.getElementById("overview")) {
  document.getElementById("find").addEventListener("input", filter);
  for (const select of document.querySelectorAll("select[data-column]")) select.addEventListener("change", filter);
}

const LATEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#",
  _: "\\_", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
  "|": "\\textbar{}", "–": "--", "±": "$\\pm$", "−": "$-$", "[": "{[}", "]": "{]}" };
const latex = (text) => [...text].map((letter) => LATEX[letter] || letter).join("");
const markdown = (text) => text.replace(/[\\`*|~[\]_]/g, "\\$&").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function tableAs(table, kind) {
  const heads = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies[0].rows, ...(table.tFoot ? table.tFoot.rows : [])].filter((row) => !row.hidden);
  const numbers = heads.map((head) => head.classList.contains("number"));
  const kept = heads.map((head, at) => at).filter((at) => textOf(heads[at]) !== "runs");
  const bold = kind === "latex" ? (text) => `\\textbf{${text}}` : (text) => `**${text}**`;
  const escaped = kind === "latex" ? latex : markdown;
  const line = (row) => kept.map((at) => {
    const text = escaped(textOf(row.cells[at]));
    return row.cells[at].classList.contains("best") ? bold(text) : text;
  });
  const lines = [table.tHead.rows[0], ...bodies].map(line);
  if (kind === "latex") {
    const set = lines.map((cells) => `    ${cells.join(" & ")} \\\\`);
    return ["% needs the package booktabs", `\\begin{tabular}{${kept.map((at) => (numbers[at] ? "r" : "l")).join("")}}`,
      "    \\toprule", set[0], "    \\midrule", ...set.slice(1), "    \\bottomrule", "\\end{tabular}", ""].join("\n");
  }
  const rule = kept.map((at) => (numbers[at] ? "---:" : ":---"));
  return [lines[0], rule, ...lines.slice(1)].map((cells) => `| ${cells.join(" | ")} |`).join("\n") + "\n";
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // where the browser keeps its clipboard from local files
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    await copy(tableAs(document.getElementById(button.closest("[data-for]").dataset.for), button.dataset.as));
    say("copied");
  });
}

const large = document.getElementById("large");
let current = null;

// A picture behind "more" or left out by the choice of labels has no box on the page.
const seen = () => [...document.querySelectorAll(".shot")].filter((shot) => shot.getClientRects().length);

function enlarge(shot) {
  current = shot;
  large.querySelector(".stage").replaceChildren(shot.querySelector(".frame").cloneNode(true));
  large.querySelector(".caption").replaceChildren(...[...shot.querySelector("figcaption").children].map((part) => part.cloneNode(true)));
  if (!large.open) large.showModal();
}

function step(by) {
  const shots = seen();
  const next = shots[shots.indexOf(current) + by];
  if (next) enlarge(next);
}

if (large) {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (button) enlarge(button.closest(".shot"));
  });
  large.querySelector(".previous").addEventListener("click", () => step(-1));
  large.querySelector(".next").addEventListener("click", () => step(1));
  large.querySelector(".close").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  large.addEventListener("close", () => current && current.querySelector(".open").focus());
}
