// The player as a widget: `start` is the value of player.js, which stands before this.
export default {
  render({ model, el }) {
    const root = document.createElement("div"), pick = document.createElement("select");
    root.className = "skelnb-player"; root.dataset.label = "the chosen clip"; pick.setAttribute("aria-label", "clip"); pick.className = "pick";
    const names = () => {
      pick.replaceChildren(...model.get("names").map((name, i) => new Option(name, i)));
      pick.value = model.get("clip"); pick.hidden = model.get("names").length < 2;
    };
    const set = (key, value) => { if (model.get(key) !== value) { model.set(key, value); model.save_changes(); } };
    const show = () => root.skelnb.show(model.get("_data"));
    const go = () => model.get("frame") === root.skelnb.frame() || root.skelnb.go(model.get("frame"));
    const chosen = () => { pick.value = model.get("clip"); };
    root.append(pick); el.append(root); names();
    start(root, model.get("_data")); go();
    root.addEventListener("frame", (e) => set("frame", e.detail));
    pick.onchange = () => set("clip", +pick.value);
    const heard = { "change:_data": show, "change:frame": go, "change:clip": chosen, "change:names": names };
    for (const [event, call] of Object.entries(heard)) model.on(event, call);
    return () => { root.skelnb.toggle(false); for (const [event, call] of Object.entries(heard)) model.off(event, call); };
  },
};
