// Search without a server: `SEARCH` (search.js) is a list of [what, where it stands, address, text].
"use strict";
(() => {
  const box = document.querySelector("nav.menu input"), list = document.getElementById("found"), root = document.querySelector("nav.menu").dataset.root;
  const entries = SEARCH.map(([what, place, url, text]) => ({what, place, url, text, head: what.toLowerCase(), body: `${place} ${text}`.toLowerCase()}));

  function score(entry, words) {
    let sum = 0;
    for (const w of words) {
      const inHead = entry.head.indexOf(w), inBody = entry.body.indexOf(w);
      if (inHead < 0 && inBody < 0) return 0;
      sum += (entry.head === w ? 40 : inHead === 0 ? 20 : inHead > 0 ? 10 : 0) + (inBody >= 0 ? 2 : 0) - entry.head.length / 200;
    }
    return sum;
  }

  function show() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const best = words.length ? entries.map(e => [score(e, words), e]).filter(([s]) => s > 0).sort((a, b) => b[0] - a[0]).slice(0, 12) : [];
    list.replaceChildren(...best.map(([, e]) => {
      const item = document.createElement("li"), link = document.createElement("a"), about = document.createElement("small");
      link.href = root + e.url;
      link.textContent = e.what;
      const at = Math.max(0, e.text.toLowerCase().indexOf(words[0]) - 30);
      about.textContent = `${e.place}: ${at ? "…" : ""}${e.text.slice(at, at + 90)}`;
      item.append(link, about);
      return item;
    }));
    if (words.length && !best.length) list.textContent = "Nothing found.";
  }

  box.addEventListener("input", show);
  box.addEventListener("keydown", e => { if (e.key === "Enter") list.querySelector("a")?.click(); });
  document.addEventListener("keydown", e => {
    if (e.key === "/" && !/input|textarea|select/i.test(document.activeElement.tagName)) { e.preventDefault(); box.focus(); }
  });
  document.querySelector("nav.menu [aria-current]")?.scrollIntoView({block: "center"});
  const asked = new URLSearchParams(location.search).get("q");
  if (asked) { box.value = asked; show(); }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
})();
