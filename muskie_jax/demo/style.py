"""Style sheet and scripts of the page."""

STYLE = """
.gradio-container { --m-ink: #1c2126; --m-soft: #5d6670; --m-rule: #dde1e6; --m-tint: #f4f6f8;
  --m-accent: #0067b1; --m-error: #b3261e; max-width: 1120px !important; margin: 0 auto !important;
  padding: 0 clamp(1rem, 3vw, 2rem) !important }
.dark .gradio-container, .dark.gradio-container, .dark { --m-ink: #e6e9ec; --m-soft: #9aa4ae;
  --m-rule: #343a41; --m-tint: #1d2125; --m-accent: #58aef5; --m-error: #ff8a80 }
.gradio-container, .gradio-container > .main { width: 100% !important }
.gradio-container > .main { padding: 0 0 3rem !important }
.gradio-container .html-container { padding: 0 !important }
#m-head { padding: 1.6rem 0 .6rem }
#m-head h1 { font-size: 2rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.15; margin: 0;
  color: var(--m-ink) }
#m-head p { max-width: 40rem; margin: .6rem 0 0; font-size: 1.02rem; line-height: 1.55;
  color: var(--m-soft) }
#m-files { flex: 1 1 22rem !important; min-width: min(100%, 22rem) !important }
#m-room { align-self: center; flex: 0 1 14rem !important; text-align: center }
@media (max-width: 700px) { #m-room { flex: 1 0 100% !important } }
#m-room p { margin: 0; font-size: .92rem; color: var(--m-soft) }
#m-try, #m-again { font-weight: 500 }
#m-again { align-self: center }
.m-status { margin: .2rem 0; min-height: 1.6rem; font-size: .95rem; color: var(--m-soft) }
.m-error { color: var(--m-error) }
.m-busy::before { content: ""; display: inline-block; width: .85em; height: .85em; margin-right: .55em;
  vertical-align: -.08em; border: 2px solid var(--m-rule); border-top-color: var(--m-accent);
  border-radius: 50%; animation: m-turn .8s linear infinite }
@keyframes m-turn { to { transform: rotate(1turn) } }
.m-hint { margin: .2rem 0 .8rem; max-width: 46rem; font-size: .95rem; line-height: 1.5;
  color: var(--m-soft) }
.m-grid { display: grid; gap: 1.1rem; grid-template-columns: repeat(var(--m-columns), minmax(0, 1fr)) }
@media (max-width: 860px) { .m-grid { --m-columns: 2 !important } }
@media (max-width: 460px) { .m-grid:not(.m-painting) { --m-columns: 1 !important } }
.m-grid figure { margin: 0; min-width: 0 }
.m-frame { position: relative; overflow: hidden; border-radius: 8px; background: var(--m-tint);
  box-shadow: 0 0 0 1px var(--m-rule) }
.m-frame img { display: block; width: 100%; height: 100%; margin: 0 }
.m-grid figcaption { display: flex; justify-content: space-between; gap: .8rem; padding: .4rem .1rem 0;
  font-size: .85rem; line-height: 1.35; color: var(--m-soft) }
.m-grid .m-name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--m-ink) }
.m-grid .m-found { flex: none; color: var(--m-soft); font-variant-numeric: tabular-nums }
.m-painting figcaption { flex-direction: column; gap: 0 }
.m-points .m-frame { cursor: crosshair; transition: opacity .2s }
.m-points figure.m-missing .m-frame { opacity: .38 }
.m-points figure.m-query .m-frame { box-shadow: 0 0 0 2px var(--m-accent) }
.m-marks { position: absolute; inset: 0; pointer-events: none }
.m-mark { position: absolute; width: 22px; height: 22px; margin: -11px 0 0 -11px; border-radius: 50%;
  border: 2.5px solid #fff;
  box-shadow: 0 0 0 1.5px rgba(0, 0, 0, .75), inset 0 0 0 1.5px rgba(0, 0, 0, .55) }
.m-mark::after { content: ""; position: absolute; left: 50%; top: 50%; width: 6px; height: 6px;
  margin: -3px 0 0 -3px;
  border-radius: 50%; background: #ffd400; box-shadow: 0 0 0 1.5px rgba(0, 0, 0, .75) }
.m-query .m-mark { border-color: #ffd400 }
.m-waiting { animation: m-pulse .9s ease-in-out infinite }
@keyframes m-pulse { 50% { transform: scale(1.45); opacity: .55 } }
.m-colours { position: absolute; inset: 0; image-rendering: pixelated; opacity: var(--m-opacity, .85) }
@media (prefers-reduced-motion: reduce) { .m-busy::before, .m-waiting { animation: none } }
#m-download { align-self: center }
.m-scene { display: block; width: 100%; height: min(72vh, 640px); border: 0; border-radius: 8px;
  background: #14181e }
footer { display: none !important }
"""

# Runs once, before the panels exist. `muskie.show` draws the answer of the server.
HEAD = """<script>
window.muskie = {
  mark(figure, x, y, waiting) {
    const mark = document.createElement("div");
    mark.className = waiting ? "m-mark m-waiting" : "m-mark";
    mark.style.left = 100 * x + "%";
    mark.style.top = 100 * y + "%";
    figure.querySelector(".m-marks").append(mark);
  },
  clear(grid) {
    for (const figure of grid.querySelectorAll("figure")) {
      figure.classList.remove("m-query", "m-missing");
      figure.querySelector(".m-marks").replaceChildren();
      figure.querySelector(".m-found").textContent = "";
    }
  },
  show(answer) {
    const grid = document.querySelector(".m-points");
    if (!grid || !answer || !answer.found) return;
    this.clear(grid);
    for (const found of answer.found) {
      const figure = grid.querySelector(`figure[data-view="${found.view}"]`);
      const note = figure.querySelector(".m-found");
      if (found.view === answer.view) {
        figure.classList.add("m-query");
        note.textContent = "your point";
      } else if (found.visible) {
        note.textContent = `confidence ${found.confidence.toFixed(2)}`;
      } else {
        figure.classList.add("m-missing");
        note.textContent = "not found here";
        continue;
      }
      this.mark(figure, found.x, found.y, false);
    }
  },
};
</script>"""

# Of the panel of points: `element` and `trigger` are Gradio's.
ON_POINT = """
element.addEventListener("click", (event) => {
  const frame = event.target.closest(".m-points .m-frame");
  if (!frame) return;
  const box = frame.getBoundingClientRect(), figure = frame.closest("figure");
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  window.muskie.clear(frame.closest(".m-grid"));
  window.muskie.mark(figure, x, y, true);
  trigger("click", { view: Number(figure.dataset.view), x, y });
});
"""
SHOW_POINT = "(answer) => { window.muskie.show(answer); return []; }"
SAVE_FILE = """(file) => {
  if (!file) return [];
  const bytes = Uint8Array.from(atob(file.content), (letter) => letter.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: "model/gltf-binary" }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return []; }"""
SET_OPACITY = """(opacity) => {
  document.documentElement.style.setProperty("--m-opacity", opacity / 100); return []; }"""
