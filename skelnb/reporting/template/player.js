// The skeleton player: starts the players of this page that do not run yet. No library, no request. Its value is `start`, which the widget uses.
(() => {
  const make = (tag, set = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(set)) key in node ? (node[key] = value) : node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  // Positions: integers of 16 or 8 bits, (T, M, V, 3), in units of clip.unit; the lowest integer marks a joint that was not found. Nobody: null.
  function unpack({ xyz, bits, unit, T, M, V }) {
    const q = new (bits === 8 ? Int8Array : Int16Array)(bytes(xyz).buffer), ABSENT = -(2 ** (bits - 1));
    return (person, at) => {
      const a = clamp(Math.floor(at), 0, T - 1), b = Math.min(a + 1, T - 1), w = clamp(at - a, 0, 1);
      const i = (a * M + person) * V * 3, j = (b * M + person) * V * 3;
      const joints = Array.from({ length: V }, (_, v) => {
        if (q[i + 3 * v] === ABSENT) return null;
        const blend = q[j + 3 * v] !== ABSENT ? w : 0;
        return [0, 1, 2].map((c) => unit * ((1 - blend) * q[i + 3 * v + c] + blend * q[j + 3 * v + c]));
      });
      return joints.some(Boolean) ? joints : null;
    };
  }

  // Weights of joints: bytes, (T, M, V), of the nearest stored frame.
  function weights({ weights, T, M, V }) {
    if (!weights) return () => null;
    const w = bytes(weights);
    return (person, at) => w.subarray((clamp(Math.round(at), 0, T - 1) * M + person) * V).slice(0, V);
  }

  // From grey over orange to what stands out most: dark red on a light page, cream on a dark one.
  const HEAT = [[201, 208, 216, 230, 159, 0, 143, 13, 23], [89, 99, 111, 230, 140, 20, 255, 240, 190]];
  const heat = (dark) => (byte) => {
    const at = byte / 127.5, i = at < 1 ? 0 : 3, w = at - i / 3;
    return `rgb(${[0, 1, 2].map((c) => Math.round((1 - w) * HEAT[+dark][i + c] + w * HEAT[+dark][i + 3 + c]))})`;
  };

  // Turn by yaw and pitch, look from a little distance, fit into the canvas.
  function camera({ fit: [radius, tall] }, view, width, height) {
    const scale = Math.min(width / (2.3 * radius), height / (1.28 * tall)), far = 4 * Math.max(radius, tall);
    const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    return ([x, y, z]) => {
      const [x1, z1] = [cy * x + sy * z, cy * z - sy * x];
      const [y2, z2] = [cp * y - sp * z1, cp * z1 + sp * y];
      const near = far / (far - z2);
      return [width / 2 + scale * near * x1, height / 2 - scale * near * y2, z2, near];
    };
  }

  function floor(pen, project, clip) {
    const y = -clip.height / 2, size = Math.ceil(clip.fit[0] * 2) / 2, line = (a, b) => {
      pen.moveTo(...project(a).slice(0, 2)); pen.lineTo(...project(b).slice(0, 2));
    };
    pen.beginPath();
    for (let s = -size; s <= size + 1e-6; s += size > 3 ? 1 : 0.5) { line([s, y, -size], [s, y, size]); line([-size, y, s], [size, y, s]); }
    pen.globalAlpha = 0.11; pen.lineWidth = 1; pen.stroke(); pen.globalAlpha = 1;
  }

  function body(pen, joints, project, clip, ink, strength, weight, color) {
    const at = joints.map((joint) => joint && project(joint)), dot = (v, r, fill) => {
      if (!at[v]) return;
      pen.fillStyle = fill; pen.beginPath(); pen.arc(at[v][0], at[v][1], r * at[v][3], 0, 7); pen.fill();
    };
    const bones = clip.bones.filter(([a, b]) => at[a] && at[b]).map(([a, b, side]) => ({ a: at[a], b: at[b], depth: at[a][2] + at[b][2], color: weight ? color((weight[a] + weight[b]) / 2) : side || ink }));
    pen.lineCap = "round"; pen.globalAlpha = strength;
    for (const { a, b, color } of bones.sort((p, q) => p.depth - q.depth)) {
      pen.strokeStyle = color; pen.lineWidth = 3.2 * (a[3] + b[3]) / 2;
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
    }
    if (clip.head >= 0) dot(clip.head, 6.5, weight ? color(weight[clip.head]) : ink);
    if (weight) [...weight.keys()].sort((p, q) => weight[p] - weight[q]).forEach((v) => v !== clip.head && dot(v, 2.2 + weight[v] / 85, color(weight[v])));
    pen.globalAlpha = 1;
  }

  // Where a joint was in the last second, fading.
  function trail(pen, [joint, side], person, m, at, back, project, ink) {
    const from = Math.max(0, at - back), n = 24;
    let last = null;
    pen.strokeStyle = side || ink; pen.lineWidth = 2;
    for (let i = 0; i <= n; i++) {
      const joints = person(m, from + (at - from) * i / n), here = joints && joints[joint] && project(joints[joint]);
      if (here && last) { pen.globalAlpha = 0.75 * i / n; pen.beginPath(); pen.moveTo(last[0], last[1]); pen.lineTo(here[0], here[1]); pen.stroke(); }
      last = here;
    }
    pen.globalAlpha = 1;
  }

  // One row: coloured segments, or a grey scale; a click or a drag seeks.
  function timeline({ name, runs, shade, fps, frames }, data, seek) {
    const head = make("u"), spoken = [], row = make("div", { className: shade ? "row shade" : "row", role: "img" });
    const place = (node, start, end) => Object.assign(node.style, { left: `${100 * start / fps / data.seconds}%`, width: `${100 * (end - start) / fps / data.seconds}%` });
    const grey = shade && bytes(shade), strip = shade && make("canvas", { width: grey.length, height: 1 });
    if (shade) { place(strip, 0, frames); row.append(strip); spoken.push(`mean ${(grey.reduce((a, b) => a + b, 0) / grey.length / 255).toFixed(2)}`); }
    for (const [start, end, id] of runs || []) {
      const { name: label, color, ink } = data.classes[id], text = `${label}, ${(start / fps).toFixed(1)} to ${(end / fps).toFixed(1)} s`;
      const piece = make("i", { title: text, className: color ? "" : "rest" });
      place(piece, start, end);
      if (color) Object.assign(piece.style, { background: color, color: ink });
      if (color) piece.dataset.name = label;
      row.append(piece); spoken.push(text);
    }
    row.append(head); row.setAttribute("aria-label", `${name}: ${spoken.join("; ")}`);
    const go = (e) => { const box = row.getBoundingClientRect(); seek(clamp((e.clientX - box.left) / box.width, 0, 1) * data.seconds); };
    row.addEventListener("pointerdown", (e) => { row.setPointerCapture(e.pointerId); go(e); });
    row.addEventListener("pointermove", (e) => e.buttons && go(e));
    const label = (t) => shade ? (grey[clamp(Math.floor(t * fps * grey.length / frames), 0, grey.length - 1)] / 255).toFixed(2)
      : data.classes[(runs.find(([, end]) => t * fps < end) || runs.at(-1))[2]].name;
    const fit = () => { for (const piece of row.querySelectorAll("[data-name]")) piece.textContent = piece.clientWidth > 6.3 * piece.dataset.name.length + 4 ? piece.dataset.name : ""; };
    const tint = (ink) => {
      const pen = shade && strip.getContext("2d");
      if (!pen || strip.ink === ink) return;
      pen.clearRect(0, 0, grey.length, 1); pen.fillStyle = strip.ink = ink;
      grey.forEach((g, i) => { pen.globalAlpha = g / 255; pen.fillRect(i, 0, 1, 1); });
    };
    return { name, row, head, label, fit, tint };
  }

  // One clip: its canvas and the words in its corner.
  function stage(clip, root, pixels) {
    const canvas = make("canvas", { tabIndex: 0, role: "img" }), caption = make("p"), said = make("span"), person = unpack(clip), weigh = weights(clip);
    canvas.setAttribute("aria-label", `${root.dataset.label || clip.title}. Drag to turn, space to play, arrow keys to step.`);
    if (clip.title) caption.append(make("b", { textContent: clip.title }));
    caption.append(said);
    function draw(time, view, ink, dark) {
      const width = canvas.clientWidth, dense = window.devicePixelRatio || 1, pen = canvas.getContext("2d"), at = time * clip.fps / clip.every;
      if (!width) return;
      canvas.width = width * dense; canvas.height = pixels * dense; canvas.style.height = `${pixels}px`;
      pen.scale(dense, dense);
      const project = camera(clip, view, width, pixels);
      pen.strokeStyle = ink;
      if (!clip.flat) floor(pen, project, clip);
      for (let m = clip.M - 1; m >= 0; m--) {
        const joints = person(m, at);
        if (!joints) continue;
        for (const joint of clip.trails) trail(pen, joint, person, m, at, clip.fps / clip.every, project, ink);
        body(pen, joints, project, clip, ink, m ? 0.55 : 1, weigh(m, at), heat(dark));
      }
    }
    return { canvas, said, draw, clip, node: make("div", { className: "view" }, canvas, caption) };
  }

  function build(root, data) {
    const [{ fps, frames }] = data.clips, flat = data.clips.every((c) => c.flat), front = { yaw: 0, pitch: flat ? 0 : 0.12 }, view = { ...front };
    let time = 0, playing = false, before = 0, told = -1;
    const stages = data.clips.map((clip) => stage(clip, root, data.pixels));
    const play = make("button", { className: "play", type: "button" }), slider = make("input", { type: "range", min: 0, max: data.seconds, step: "any", value: 0 });
    const speed = make("select", { title: "speed" }, ...[0.25, 0.5, 1, 2].map((s) => make("option", { value: s, textContent: `${s}×`, selected: s === 1 })));
    const reset = make("button", { className: "front", type: "button", textContent: "front", title: "turn back to the front view" }), clock = make("output");
    slider.setAttribute("aria-label", "time in seconds"); speed.setAttribute("aria-label", "speed");
    const rows = data.rows.map((row) => timeline(row, data, (t) => seek(t)));
    const scale = data.legend && make("s"), legend = data.legend && make("div", { className: "legend" }, data.legend[0], make("span", { textContent: data.legend[1] }), scale, make("span", { textContent: data.legend[2] }));
    const views = make("div", { className: "views" }, ...stages.map((s) => s.node));
    if (legend) views.append(legend);
    const box = make("div", { className: "box" }, views, make("div", { className: "bar" }, play, slider, clock, speed, reset));
    if (rows.length) box.append(make("div", { className: "rows" }, ...rows.flatMap(({ name, row }) => [make("span", { textContent: name, title: name }), row])));
    root.append(box);

    function draw() {
      const ink = getComputedStyle(root).color, dark = (ink.match(/\d+/g) || []).slice(0, 3).reduce((a, b) => a + +b, 0) > 384;
      root.style.colorScheme = dark ? "dark" : "light";  // of the slider: JupyterLab's theme need not be the system's
      for (const { draw } of stages) draw(time, view, ink, dark);
      if (legend) scale.style.background = `linear-gradient(90deg, ${[0, 127, 255].map(heat(dark))})`;
      slider.value = time;
      clock.textContent = `${time.toFixed(1)} / ${data.seconds.toFixed(1)} s`;
      stages[0].said.replaceChildren(...rows.map(({ name, label }) => make("span", { textContent: `${name}: ${label(time)}` })));
      for (const { head, tint } of rows) { head.style.left = `${100 * time / data.seconds}%`; tint(ink); }
      const frame = Math.min(frames - 1, Math.floor(time * fps + 1e-6));
      if (frame !== told) root.dispatchEvent(new CustomEvent("frame", { detail: told = frame }));
    }
    function seek(t) { time = clamp(t, 0, data.seconds); draw(); }
    function toggle(on = !playing) {
      playing = on; before = 0;
      play.textContent = playing ? "❚❚" : "▶"; play.setAttribute("aria-label", playing ? "pause" : "play");
      if (playing && time >= data.seconds) time = 0;
      if (playing) requestAnimationFrame(tick);
    }
    function tick(now) {
      if (!playing || !box.isConnected) return;
      if (before) time += speed.value * (now - before) / 1000;
      before = now;
      if (time >= data.seconds) { time = data.loop ? 0 : data.seconds; if (!data.loop) toggle(false); }
      draw();
      if (playing) requestAnimationFrame(tick);
    }

    play.onclick = () => toggle();
    slider.oninput = () => seek(+slider.value);
    reset.onclick = () => { Object.assign(view, front); draw(); };
    for (const { canvas, clip } of stages) {
      canvas.ondblclick = reset.onclick;
      canvas.onpointerdown = (e) => canvas.setPointerCapture(e.pointerId);
      canvas.onpointermove = (e) => {
        if (!e.buttons || clip.flat) return;
        view.yaw += e.movementX * 0.01; view.pitch = clamp(view.pitch + e.movementY * 0.01, -0.4, 1.4);
        draw();
      };
      canvas.onkeydown = (e) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key], jump = { Home: 0, End: data.seconds }[e.key];
        if (e.key === " ") toggle(); else if (step) seek(time + step / fps); else if (jump !== undefined) seek(jump); else return;
        e.preventDefault(); e.stopPropagation();
      };
    }
    toggle(false); draw();
    return { box, seek, toggle, fit() { rows.forEach((row) => row.fit()); draw(); }, frame: () => told, go: (frame) => seek(frame / fps) };
  }

  // root.skelnb is the handle: seek(s), go(frame), frame(), toggle(on), show(data); root fires "frame" when another frame is shown, "look" when its size or colours may be others.
  function start(root, data) {
    root.dataset.on = "";
    for (const image of root.querySelectorAll(":scope > img")) { image.hidden = true; image.style.display = "none"; }
    const show = (next) => {
      root.skelnb?.box.remove();
      root.skelnb = { ...build(root, next), show };
      root.skelnb.fit();
      return root.skelnb;
    };
    show(data || JSON.parse(root.querySelector(":scope > script").textContent));
    const look = () => { root.skelnb.fit(); root.dispatchEvent(new Event("look")); };
    new ResizeObserver(look).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look);
    new MutationObserver(() => requestAnimationFrame(look)).observe(document.body, { attributeFilter: ["data-jp-theme-name"] });  // hidden until then
    return root.skelnb;
  }
  document.querySelectorAll(".skelnb-player:not([data-on])").forEach((root) => start(root));
  return start;
})();
