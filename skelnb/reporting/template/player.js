// The skeleton player: finds the players of this page that do not run yet and starts them. No library, no request.
(() => {
  const make = (tag, set = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(set)) key in node ? (node[key] = value) : node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  // Positions: 16-bit integers, (T, M, V, 3), in units of data.unit; the lowest integer marks an absent person.
  function unpack(data) {
    const bytes = Uint8Array.from(atob(data.xyz), (c) => c.charCodeAt(0));
    const q = new Int16Array(bytes.buffer), { T, M, V } = data, ABSENT = -32768;
    return (person, at) => {
      const a = clamp(Math.floor(at), 0, T - 1), b = Math.min(a + 1, T - 1), w = clamp(at - a, 0, 1);
      const i = (a * M + person) * V * 3, j = (b * M + person) * V * 3;
      if (q[i] === ABSENT) return null;
      const blend = q[j] !== ABSENT ? w : 0;
      return Array.from({ length: V }, (_, v) => [0, 1, 2].map((c) => data.unit * ((1 - blend) * q[i + 3 * v + c] + blend * q[j + 3 * v + c])));
    };
  }

  // Turn by yaw and pitch, look from a little distance, fit into the canvas.
  function camera(data, view, width, height) {
    const scale = Math.min(width / (2.3 * data.radius), height / (1.28 * data.height)), far = 4 * Math.max(data.radius, data.height);
    const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    return ([x, y, z]) => {
      const [x1, z1] = [cy * x + sy * z, cy * z - sy * x];
      const [y2, z2] = [cp * y - sp * z1, cp * z1 + sp * y];
      const near = far / (far - z2);
      return [width / 2 + scale * near * x1, height / 2 - scale * near * y2, z2, near];
    };
  }

  function floor(pen, project, data) {
    const y = -data.height / 2, size = Math.ceil(data.radius * 2) / 2, line = (a, b) => {
      pen.moveTo(...project(a).slice(0, 2)); pen.lineTo(...project(b).slice(0, 2));
    };
    pen.beginPath();
    for (let s = -size; s <= size + 1e-6; s += size > 3 ? 1 : 0.5) { line([s, y, -size], [s, y, size]); line([-size, y, s], [size, y, s]); }
    pen.globalAlpha = 0.11; pen.lineWidth = 1; pen.stroke(); pen.globalAlpha = 1;
  }

  function body(pen, joints, project, data, ink, strength) {
    const at = joints.map(project);
    const bones = data.bones.map(([a, b, color]) => ({ a: at[a], b: at[b], color, depth: at[a][2] + at[b][2] }));
    pen.lineCap = "round"; pen.globalAlpha = strength;
    for (const { a, b, color } of bones.sort((p, q) => p.depth - q.depth)) {
      pen.strokeStyle = color || ink; pen.lineWidth = 3.2 * (a[3] + b[3]) / 2;
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
    }
    if (data.head >= 0) {
      const [x, y, , near] = at[data.head];
      pen.fillStyle = ink; pen.beginPath(); pen.arc(x, y, 6.5 * near, 0, 7); pen.fill();
    }
    pen.globalAlpha = 1;
  }

  // One row of coloured segments; a click or a drag seeks.
  function timeline(name, runs, data, seek) {
    const head = make("u"), spoken = [];
    const row = make("div", { className: "row", role: "img" });
    for (const [start, end, id] of runs) {
      const { name: label, color, ink } = data.classes[id], text = `${label}, ${(start / data.fps).toFixed(1)} to ${(end / data.fps).toFixed(1)} s`;
      const piece = make("i", { title: text, className: color ? "" : "rest" });
      Object.assign(piece.style, { left: `${100 * start / data.frames}%`, width: `${100 * (end - start) / data.frames}%` });
      if (color) Object.assign(piece.style, { background: color, color: ink });
      if (color) piece.dataset.name = label;
      row.append(piece); spoken.push(text);
    }
    row.append(head); row.setAttribute("aria-label", `${name}: ${spoken.join("; ")}`);
    const go = (e) => { const box = row.getBoundingClientRect(); seek(clamp((e.clientX - box.left) / box.width, 0, 1) * data.seconds); };
    row.addEventListener("pointerdown", (e) => { row.setPointerCapture(e.pointerId); go(e); });
    row.addEventListener("pointermove", (e) => e.buttons && go(e));
    const label = (t) => data.classes[(runs.find(([, end]) => t * data.fps < end) || runs.at(-1))[2]].name;
    const fit = () => { for (const piece of row.querySelectorAll("[data-name]")) piece.textContent = piece.clientWidth > 6.3 * piece.dataset.name.length + 4 ? piece.dataset.name : ""; };
    return { name, row, head, label, fit };
  }

  function start(root) {
    root.dataset.on = "";
    const data = JSON.parse(root.querySelector("script").textContent), person = unpack(data);
    const front = { yaw: 0, pitch: data.flat ? 0 : 0.12 }, view = { ...front };
    let time = 0, playing = false, before = 0;

    const canvas = make("canvas", { tabIndex: 0, role: "img" });
    canvas.setAttribute("aria-label", `${root.dataset.label}. Drag to turn, space to play, arrow keys to step.`);
    const play = make("button", { className: "play", type: "button" }), slider = make("input", { type: "range", min: 0, max: data.seconds, step: "any", value: 0 });
    const speed = make("select", { title: "speed" }, ...[0.25, 0.5, 1, 2].map((s) => make("option", { value: s, textContent: `${s}×`, selected: s === 1 })));
    const reset = make("button", { className: "front", type: "button", textContent: "front", title: "turn back to the front view" });
    const clock = make("output"), caption = make("p"), said = make("span");
    slider.setAttribute("aria-label", "time in seconds"); speed.setAttribute("aria-label", "speed");
    if (data.title) caption.append(make("b", { textContent: data.title }));
    caption.append(said);
    const rows = data.rows.map(([name, runs]) => timeline(name, runs, data, (t) => seek(t)));
    const box = make("div", { className: "box" }, make("div", { className: "view" }, canvas, caption), make("div", { className: "bar" }, play, slider, clock, speed, reset));
    if (rows.length) box.append(make("div", { className: "rows" }, ...rows.flatMap(({ name, row }) => [make("span", { textContent: name, title: name }), row])));
    root.querySelector("img").hidden = true;
    root.querySelector("img").style.display = "none";
    root.append(box);

    function draw() {
      const width = canvas.clientWidth, height = data.pixels, dense = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
      if (!width) return;
      canvas.width = width * dense; canvas.height = height * dense; canvas.style.height = `${height}px`;
      pen.scale(dense, dense);
      const ink = getComputedStyle(root).color, project = camera(data, view, width, height);
      pen.strokeStyle = ink;
      if (!data.flat) floor(pen, project, data);
      for (let m = data.M - 1; m >= 0; m--) {
        const joints = person(m, time * data.fps / data.every);
        if (joints) body(pen, joints, project, data, ink, m ? 0.55 : 1);
      }
      slider.value = time;
      clock.textContent = `${time.toFixed(1)} / ${data.seconds.toFixed(1)} s`;
      said.replaceChildren(...rows.map(({ name, label }) => make("span", { textContent: `${name}: ${label(time)}` })));
      for (const { head } of rows) head.style.left = `${100 * time / data.seconds}%`;
    }
    function seek(t) { time = clamp(t, 0, data.seconds); draw(); }
    function toggle(on = !playing) {
      playing = on; before = 0;
      play.textContent = playing ? "❚❚" : "▶"; play.setAttribute("aria-label", playing ? "pause" : "play");
      if (playing && time >= data.seconds) time = 0;
      if (playing) requestAnimationFrame(tick);
    }
    function tick(now) {
      if (!playing || !root.isConnected) return;
      if (before) time += speed.value * (now - before) / 1000;
      before = now;
      if (time >= data.seconds) { time = data.seconds; toggle(false); }
      draw();
      if (playing) requestAnimationFrame(tick);
    }

    play.onclick = () => toggle();
    slider.oninput = () => seek(+slider.value);
    reset.onclick = () => { Object.assign(view, front); draw(); };
    canvas.ondblclick = reset.onclick;
    canvas.onpointerdown = (e) => canvas.setPointerCapture(e.pointerId);
    canvas.onpointermove = (e) => {
      if (!e.buttons || data.flat) return;
      view.yaw += e.movementX * 0.01; view.pitch = clamp(view.pitch + e.movementY * 0.01, -0.4, 1.4);
      draw();
    };
    canvas.onkeydown = (e) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key], jump = { Home: 0, End: data.seconds }[e.key];
      if (e.key === " ") toggle(); else if (step) seek(time + step / data.fps); else if (jump !== undefined) seek(jump); else return;
      e.preventDefault(); e.stopPropagation();
    };
    new ResizeObserver(() => { rows.forEach((row) => row.fit()); draw(); }).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    toggle(false); draw();
  }
  document.querySelectorAll(".skelnb-player:not([data-on])").forEach(start);
})();
