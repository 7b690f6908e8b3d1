// Zoom and pan for the map; the page reads in full without it.
(() => {
  const map = document.querySelector(".map"), under = document.querySelector(".under");
  const full = map.viewBox.baseVal, W = full.width, H = full.height, dotPx = () => (map.clientWidth < 500 ? 0.7 : 1);
  let box = { x: 0, y: 0, w: W, h: H }, drag = null;
  const draw = () => {
    box.w = Math.min(W, Math.max(W / 24, box.w)); box.h = box.w * H / W;
    box.x = Math.min(W - box.w, Math.max(0, box.x)); box.y = Math.min(H - box.h, Math.max(0, box.y));
    map.setAttribute("viewBox", `${box.x} ${box.y} ${box.w} ${box.h}`);
    map.style.setProperty("--k", dotPx() * box.w / map.clientWidth);
    map.classList.toggle("zoomed", box.w < W);
    map.querySelector(".fixed").style.display = box.w < W ? "none" : "";
  };
  const zoom = (factor, cx = box.x + box.w / 2, cy = box.y + box.h / 2) => {
    const w = Math.min(W, Math.max(W / 24, box.w * factor)), f = w / box.w;
    box.x = cx - (cx - box.x) * f; box.y = cy - (cy - box.y) * f; box.w = w; draw();
  };
  const at = (event) => {
    const r = map.getBoundingClientRect();
    return [box.x + (event.clientX - r.left) / r.width * box.w, box.y + (event.clientY - r.top) / r.height * box.h];
  };
  const actions = { in: () => zoom(0.5), out: () => zoom(2), all: () => { box = { x: 0, y: 0, w: W, h: H }; draw(); } };
  document.querySelector(".zoom").hidden = false;
  document.querySelectorAll(".zoom button").forEach((b) => b.addEventListener("click", actions[b.dataset.do]));
  map.addEventListener("dblclick", (e) => zoom(0.5, ...at(e)));
  map.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault(); zoom(e.deltaY > 0 ? 1.25 : 0.8, ...at(e));
  }, { passive: false });
  map.addEventListener("pointerdown", (e) => { if (box.w < W) { drag = at(e); map.setPointerCapture(e.pointerId); } });
  map.addEventListener("pointermove", (e) => {
    if (!drag) return;
    const [x, y] = at(e); box.x += drag[0] - x; box.y += drag[1] - y; draw();
  });
  const drop = () => { drag = null; };
  map.addEventListener("pointerup", drop); map.addEventListener("pointercancel", drop);
  map.addEventListener("keydown", (e) => {
    const step = box.w / 8, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (e.key === "+" || e.key === "=") zoom(0.5); else if (e.key === "-") zoom(2); else if (e.key === "0") actions.all();
    else if (moves[e.key] && box.w < W) { box.x += moves[e.key][0]; box.y += moves[e.key][1]; draw(); } else return;
    e.preventDefault();
  });
  map.addEventListener("pointerover", (e) => {
    const mark = e.target.closest("g[data-label]");
    if (mark) under.textContent = mark.dataset.label;
  });
  addEventListener("resize", draw);
  draw();
})();
