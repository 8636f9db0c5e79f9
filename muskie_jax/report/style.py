"""Style sheet and script of the page. The page is readable without the script."""

# Line colours are distinct for red-green colour-blind readers and contrast with white and with black.
STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2126; --soft: #5d6670; --rule: #dde1e6; --tint: #f4f6f8; --best: #e3f0fb;
  --c0: #0067b1; --c1: #cf4a00; --c2: #008566; --c3: #a8478f; --c4: #8d6a00; --c5: #7b3f21;
  --g0: #6d747b; --g1: #8d949b; --g2: #50565c }
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --ink: #e6e9ec; --soft: #9aa4ae; --rule: #343a41; --tint: #1d2125; --best: #17324a;
  --c0: #58aef5; --c1: #ff8a4d; --c2: #3fcfa2; --c3: #e592d0; --c4: #e3bd4f; --c5: #c99a7e;
  --g0: #98a1aa; --g1: #7c858e; --g2: #b7bfc7 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; max-width: 78rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 .25rem }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 3rem 0 .5rem; padding-top: 1rem;
  border-top: 2px solid var(--ink) }
h3 { font-size: 1.15rem; margin: 2.2rem 0 .5rem }
h4 { font-size: 1rem; margin: 1.5rem 0 .4rem }
p, li, dd { max-width: 46rem }
p { margin: .5rem 0 }
h1, h2, h3, h4, p, li, dt, dd, figcaption { overflow-wrap: anywhere }
.soft, .note, figcaption { color: var(--soft) }
.note, figcaption { font-size: .875rem }
nav { margin: 1rem 0; font-size: .9375rem }
nav a { display: inline-block; margin: .15rem 1.1rem .15rem 0 }
a { color: var(--c0) }
.summary { max-width: 50rem; padding: .25rem 1.1rem; margin: 1rem 0; border-left: 4px solid var(--c0);
  background: var(--tint) }
.summary ul { padding: 0; list-style: none }
.summary li { margin: .6rem 0 }
dl { display: grid; grid-template-columns: fit-content(14rem) 1fr; gap: .25rem 1.2rem; margin: .8rem 0 }
dt { color: var(--soft) }
dd { margin: 0 }

.scroll { overflow-x: auto; max-width: 100%; margin: .4rem 0 }
table { border-collapse: separate; border-spacing: 0; font-size: .9063rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .32rem .65rem; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: baseline; white-space: nowrap }
th { font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper) }
.long { white-space: normal }
th.long { min-width: 6.8rem }
td.long { min-width: 16rem; overflow-wrap: anywhere }
.number { text-align: right }
th button { all: unset; cursor: pointer; font: inherit }
th button:focus-visible { outline: 2px solid var(--c0); outline-offset: 3px }
th button::after { content: "\\2195"; font-size: .8em; margin-left: .25em; color: var(--soft);
  opacity: .55 }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; color: var(--ink) }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; color: var(--ink) }
td.best { font-weight: 700; background: var(--best) }
.interval { display: block; font-size: .78em; font-weight: 400; color: var(--soft) }
tbody.paper { font-style: italic; color: var(--soft) }
tbody.paper tr:first-child td { border-top: 2px solid var(--ink) }
.tag { display: inline-block; font-size: .82em; font-style: normal; line-height: 1.35; padding: 0 .4rem;
  margin-left: .35rem; border: 1px solid var(--rule); border-radius: .6rem; color: var(--soft);
  white-space: nowrap }
.ours { margin-top: 2rem; padding: .1rem 0 .4rem 1rem; border-left: 4px solid var(--c3) }
.ours > h4:first-child { margin-top: .6rem }

.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 1.2rem 0 .3rem;
  padding: 0; font-size: .875rem }
.legend li { display: flex; align-items: center; gap: .45rem; max-width: 100% }
.swatch { width: 34px; height: 14px; flex: none }
td .swatch { margin-right: .5rem; vertical-align: -1px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr));
  gap: 1.2rem 1.5rem }
.charts figure { margin: 0 }
.chart { display: block; width: 100%; height: auto; font-size: 12.5px; overflow: visible }
.chart text { fill: var(--soft) }
.chart .title { fill: var(--ink); font-size: 13.5px; font-weight: 600 }
.grid, .axis { fill: none; stroke: var(--rule); stroke-width: 1 }
.axis { stroke: var(--soft) }
.curve { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round }
.g0 .curve, .g1 .curve, .g2 .curve { stroke-width: 1.8 }
.mark { fill: currentColor; stroke: var(--paper); stroke-width: 1 }
.hollow { fill: var(--paper); stroke: currentColor; stroke-width: 1.6 }
.c0 { color: var(--c0) } .c1 { color: var(--c1) } .c2 { color: var(--c2) }
.c3 { color: var(--c3) } .c4 { color: var(--c4) } .c5 { color: var(--c5) }
.g0 { color: var(--g0) } .g1 { color: var(--g1) } .g2 { color: var(--g2) }

.pictures figure { margin: 1.2rem 0 2rem }
.pictures img { display: block; max-width: 100%; height: auto; border-radius: 3px; background: #fff }
figcaption { margin-top: .35rem; max-width: 60rem }
figcaption b { color: var(--ink) }
summary { cursor: pointer; margin: .8rem 0 }

@media (max-width: 34rem) {
  dl { display: block }
  dd { margin: 0 0 .5rem }
  h1 { font-size: 1.6rem }
  th, td { padding: .32rem .45rem }
  td.name { white-space: normal; min-width: 8rem }
  td .swatch { display: block }
  .tag { margin-left: 0 }
  .ours { padding-left: .7rem }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt }
  nav { display: none }
  th button::after { content: none }
  .scroll { overflow: visible }
  table { font-size: 8pt }
  th, td { padding: .2rem .35rem; white-space: normal }
  h2, h3, h4 { break-after: avoid }
  tr, .charts figure, .pictures figure { break-inside: avoid }
  .charts { grid-template-columns: 1fr 1fr }
}
"""

# A click on a column header sorts ascending; a second click sorts descending. Missing values stay last.
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, heads = [...head.parentElement.cells], column = heads.indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => {
    if (!head.classList.contains("number")) return key(a).localeCompare(key(b), "en", {numeric: true});
    return key(a) - key(b);
  };
  for (const body of head.closest("table").tBodies) {
    const missing = (row) => key(row) === "";
    const rows = [...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b));
    body.append(...rows, ...rows.filter(missing));
  }
});
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
"""
