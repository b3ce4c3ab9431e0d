"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const KINDS = { label: "Labels", duplicate: "Duplicates", outlier: "Outliers", media: "Media", unlabelled: "To label" };
  const LIKELY = ["Q", "W", "E"]; // keys; a class may be called 1
  const at = (id) => document.getElementById(id);
  const memory = `percept-audit:${data.task}:${data.suspects.length}:${data.suspects[0]?.file}`;
  let decisions = recalled(); // file → "keep", "drop" or {label}
  let kind = "";
  let place = 0;

  function recalled() {
    try {
      return JSON.parse(localStorage.getItem(memory)) ?? {};
    } catch {
      return {}; // a browser may keep nothing for files
    }
  }

  const shown = () => data.suspects.filter((s) => !kind || s.kind === kind);

  function element(name, text, kindOf) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kindOf) made.className = kindOf;
    return made;
  }

  function media(file) {
    const found = data.media[file];
    const parts = [];
    if (!found) return [element("p", "It cannot be shown.", "file")];
    if (found.picture) {
      const picture = element("img", undefined, found.sound ? "sound" : "");
      picture.src = found.picture;
      picture.alt = found.sound ? "Mel spectrogram" : "";
      parts.push(picture);
    }
    if (found.sound) {
      const sound = element("audio");
      sound.controls = true;
      sound.preload = "none";
      sound.src = found.sound;
      parts.push(sound);
    }
    if (found.text) parts.push(element("p", found.text, "file"));
    return parts;
  }

  const isNew = (suspect) => suspect.kind === "unlabelled";

  function verdict(suspect) {
    const decision = decisions[suspect.file];
    if (!decision) return element("p", isNew(suspect) ? "No label yet" : "Not decided", "hint");
    const [name, text] = decision.label ? ["relabel", `${isNew(suspect) ? "Labelled" : "Relabelled"} as ${decision.label}`]
      : decision === "drop" ? ["drop", isNew(suspect) ? "Left out" : "Dropped"] : ["keep", "Kept as it is"];
    return element("p", text, `verdict ${name}`);
  }

  function offer(suspect) {
    const focused = [...at("likely").children].indexOf(document.activeElement);
    at("likely").hidden = !isNew(suspect);
    at("likely").replaceChildren(...(suspect.likely ?? []).map((label, i) => {
      const button = element("button", `${label} `);
      button.type = "button";
      button.append(element("kbd", LIKELY[i]));
      button.onclick = () => decide({ label });
      return button;
    }));
    at("likely").children[focused]?.focus();
    at("keep").hidden = isNew(suspect);
    at("give").textContent = isNew(suspect) ? "Label" : "Relabel";
    at("leave").textContent = isNew(suspect) ? "Leave out" : "Drop";
  }

  function count() {
    const counts = { labelled: 0, "left out": 0, relabelled: 0, dropped: 0, kept: 0 };
    for (const [file, decision] of Object.entries(decisions)) {
      const fresh = data.rows.rows[file]?.[1] === "";
      if (decision.label) counts[fresh ? "labelled" : "relabelled"] += 1;
      else if (decision === "drop") counts[fresh ? "left out" : "dropped"] += 1;
      else counts.kept += 1;
    }
    const names = Object.keys(counts).slice(data.suspects.some(isNew) ? 0 : 2);
    return names.map((name) => `${counts[name]} ${name}`).join(", ");
  }

  function draw() {
    const suspects = shown();
    place = Math.min(Math.max(place, 0), suspects.length - 1);
    const suspect = suspects[place];
    at("place").textContent = `${place + 1} of ${suspects.length}`;
    const card = at("suspect");
    card.replaceChildren(
      element("p", isNew(suspect) ? "Which is it?" : suspect.label, "label"),
      element("p", suspect.reason),
      ...media(suspect.file),
      element("p", suspect.file + (isNew(suspect) ? "" : suspect.split ? `, ${suspect.split} split` : ", not used"), "file"),
      verdict(suspect),
    );
    offer(suspect);
    at("besides").hidden = !suspect.resembles.length;
    at("near").replaceChildren(...suspect.resembles.map((file) => {
      const item = element("li");
      item.append(element("strong", data.label_of[file] ?? ""), ...media(file), element("p", file, "file"));
      return item;
    }));
    const editable = suspect.file in data.rows.rows;
    for (const id of ["keep", "relabel", "drop", "label"]) at(id).disabled = !editable;
    at("label").value = decisions[suspect.file]?.label ?? suspect.suggested ?? suspect.label;
    at("undo").disabled = !(suspect.file in decisions);
    at("back").disabled = place === 0;
    at("next").disabled = place === suspects.length - 1;
    for (const button of at("kinds").children) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    at("decided").textContent = count();
    at("progress").value = suspects.filter((s) => s.file in decisions).length / suspects.length;
  }

  function decide(decision) {
    const suspect = shown()[place];
    if (!(suspect.file in data.rows.rows)) return;
    if (decision === undefined) delete decisions[suspect.file];
    else decisions[suspect.file] = decision;
    try {
      localStorage.setItem(memory, JSON.stringify(decisions));
    } catch { /* kept as long as the page is open */ }
    if (decision !== undefined) place += 1;
    draw();
  }

  function give(i) {
    const label = shown()[place].likely?.[i];
    if (label !== undefined) decide({ label });
  }

  function relabel() {
    const label = at("label").value;
    decide(label === shown()[place].label ? "keep" : { label });
  }

  function move(by) {
    place += by;
    draw();
  }

  const cell = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function manifest() {
    const { columns, rows, files } = data.rows;
    const lines = [files ? columns : ["sample", "label", "decision"]];
    for (const [file, row] of Object.entries(rows)) {
      const decision = decisions[file];
      const label = decision?.label ?? row[1];
      if (!files) {
        if (decision) lines.push([file, label, !decision.label ? decision : row[1] ? "relabel" : "label"]);
      } else if (decision !== "drop" && label) {
        lines.push([row[0], label, ...row.slice(2)]);
      }
    }
    return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
  }

  function save() {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([manifest()], { type: "text/csv" }));
    link.download = "audit.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  function start() {
    const kinds = [...new Set(data.suspects.map((s) => s.kind))];
    if (kinds.includes("unlabelled")) kind = "unlabelled";
    at("kinds").append(...["", ...kinds].map((name) => {
      const n = data.suspects.filter((s) => !name || s.kind === name).length;
      const button = element("button", `${name ? KINDS[name] : "All"} ${n}`);
      button.type = "button";
      button.dataset.kind = name;
      button.onclick = () => { kind = name; place = 0; draw(); };
      return button;
    }));
    at("label").append(...data.labels.map((label) => new Option(label, label)));
    at("keep").onclick = () => decide("keep");
    at("drop").onclick = () => decide("drop");
    at("relabel").onclick = relabel;
    at("undo").onclick = () => decide(undefined);
    at("back").onclick = () => move(-1);
    at("next").onclick = () => move(1);
    at("save").onclick = save;
    // A click leaves the focus where it is, so that space plays the next sound and does not press the button again.
    at("bar").onmousedown = (event) => event.target.closest("button") && event.preventDefault();
    const keys = {
      q: () => give(0), w: () => give(1), e: () => give(2), k: () => isNew(shown()[place]) || decide("keep"), d: () => decide("drop"), r: relabel, u: () => decide(undefined),
      ArrowLeft: () => move(-1), ArrowRight: () => move(1),
      " ": () => { const sound = document.querySelector("#suspect audio"); if (sound) sound.paused ? sound.play() : sound.pause(); },
    };
    addEventListener("keydown", (event) => {
      const inside = event.target.closest?.("select, audio, button, summary");
      if (event.ctrlKey || event.metaKey || event.altKey || inside?.matches("select, audio") || (inside && event.key === " ")) return;
      const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (act) { event.preventDefault(); act(); }
    });
    draw();
  }

  if (data.suspects.length) start();
}
