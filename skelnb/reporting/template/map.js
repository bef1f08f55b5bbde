// The map of clips: a point plays its clip in the player beside it. Starts the maps of this page that do not run yet, after their players.
(() => {
  function start(root) {
    root.dataset.on = "";
    const data = JSON.parse(root.querySelector(":scope > script").textContent), host = root.querySelector(".skelnb-player"), image = root.querySelector(".plot img");
    const canvas = document.createElement("canvas"), said = root.querySelector(".said"), keys = [...root.querySelectorAll(".classes button")];
    let chosen = data.first, pinned = false, only = -1;
    image.style.display = "none"; image.hidden = true; image.parentNode.append(canvas);
    canvas.tabIndex = 0; canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", `${image.alt} Arrow keys go from clip to clip.`);
    const plays = data.clips.flatMap((clip, i) => clip ? [i] : []);
    const spot = (i) => [12 + (canvas.clientWidth - 24) * data.x[i] / 999, 12 + (canvas.clientHeight - 24) * (1 - data.y[i] / 999)];

    function draw() {
      const dense = window.devicePixelRatio || 1, pen = canvas.getContext("2d"), ink = getComputedStyle(root).color, dot = (i, r) => {
        pen.beginPath(); pen.arc(...spot(i), r, 0, 7);
      };
      canvas.width = canvas.clientWidth * dense; canvas.height = canvas.clientHeight * dense;
      pen.scale(dense, dense);
      const size = Math.min(5, Math.max(2, 70 / Math.sqrt(data.x.length)));
      data.x.forEach((_, i) => {
        pen.globalAlpha = only >= 0 && data.label[i] !== only ? 0.12 : data.clips[i] ? 0.9 : 0.4;
        pen.fillStyle = data.colors[data.label[i]] || ink; dot(i, size); pen.fill();
      });
      pen.globalAlpha = 1; pen.strokeStyle = ink; pen.lineWidth = pinned ? 3 : 1.8; dot(chosen, size + 3); pen.stroke();
    }
    function choose(i, play = true) {
      if (i !== chosen || !play) {
        chosen = i;
        const clip = { ...data.common, ...data.clips[i] };
        host.skelnb.show({ ...data.player, seconds: clip.frames / clip.fps, clips: [clip] });
        said.textContent = data.names[i];
        if (play) host.skelnb.toggle(true);
      }
      draw();
    }
    function nearest(e, reach) {
      const box = canvas.getBoundingClientRect(), far = (i) => { const [x, y] = spot(i); return Math.hypot(x - e.clientX + box.left, y - e.clientY + box.top); };
      let best = -1, least = reach;
      for (const i of plays) if ((only < 0 || data.label[i] === only) && far(i) < least) { best = i; least = far(i); }
      return best;
    }
    canvas.onpointermove = (e) => {
      const i = nearest(e, 14);
      canvas.style.cursor = i < 0 ? "default" : "pointer";
      if (i >= 0 && !pinned) choose(i);
    };
    canvas.onclick = (e) => {
      const i = nearest(e, 24);
      pinned = i >= 0 && !(pinned && i === chosen);
      i >= 0 ? choose(i) : draw();
    };
    canvas.onkeydown = (e) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[e.key];
      if (e.key === "Escape") { pinned = false; draw(); } else if (step) { pinned = true; choose(plays.at((plays.indexOf(chosen) + step) % plays.length)); } else return;
      e.preventDefault(); e.stopPropagation();
    };
    keys.forEach((key, k) => {
      key.onclick = () => { only = only === k ? -1 : k; keys.forEach((other, j) => other.setAttribute("aria-pressed", j === only)); draw(); };
    });
    new ResizeObserver(draw).observe(canvas);
    host.addEventListener("look", draw);
    root.choose = choose;
    choose(chosen, false);
  }
  document.querySelectorAll(".skelnb-map:not([data-on])").forEach(start);
})();
