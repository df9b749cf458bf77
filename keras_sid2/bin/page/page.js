"use strict";
// What the server says: GET /state; POST /upload?model=i; POST /draw, a line of JSON for each event.

const $ = (selector, within = document) => within.querySelector(selector);
const HEADERS = { "X-Sid2-Play": "1" };
const SIDES = ["A", "B"];
let state, sides = [], running = null, picture = null; // picture: {known, shape, painted}

async function start() {
  state = await (await fetch("/state")).json();
  $("#count").max = state.images;
  $("#count").value = Math.min(8, state.images);
  SIDES.forEach((name) => sides.push(newSide(name)));
  sides[1].root.hidden = true;
  $("#shared").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
  $("#stop").onclick = () => running && running.abort();
  $("#next-seed").onclick = () => { $("#seed").value = (Number($("#seed").value) + 1) % 2 ** 32; };
  $("#compare").onchange = () => { sides[1].root.hidden = !$("#compare").checked; modelChosen(); };
  $("#file").onchange = () => $("#file").files[0] && upload($("#file").files[0]);
  $("#clear").onclick = () => { picture.painted.fill(0); showPaint(); };
  $("#no-picture").onclick = noPicture;
  brushOn($("#painted"));
  modelChosen();
}

// -- sides -----------------------------------------------------------------------------------------------------------

function newSide(name) {
  const root = $("#side").content.firstElementChild.cloneNode(true);
  const side = { root, frames: [], captions: [] };
  $("h2", root).textContent = `Setting ${name}`;
  state.models.forEach((model, i) => $(".model", root).add(new Option(model.name, i)));
  $(".num_steps", root).max = state.steps;
  $(".model", root).onchange = () => { axis(side); modelChosen(); };
  for (const name of ["low", "high"]) $(`.${name}`, root).oninput = () => intervalMoved(side, name);
  $(".scale", root).oninput = () => showGuidance(side);
  $(".frame", root).oninput = () => show(side, Number($(".frame", root).value));
  $(".noisy-shown", root).onchange = () => show(side, Number($(".frame", root).value));
  for (const button of root.querySelectorAll(".copy")) button.onclick = () => copy(button);
  $("#sides").append(root);
  axis(side);
  return side;
}

const modelOf = (side) => state.models[Number($(".model", side.root).value)];

function modelChosen() {
  const model = modelOf(sides[0]);
  const kind = model.shape.length === 4 ? "clips of " : "";
  $("#about").textContent = `${kind}${model.shape.join(" × ")}` + (model.classes ? `, ${model.classes} classes` : "");
  const models = sides.filter((side) => !side.root.hidden).map(modelOf);
  const classes = Math.min(...models.map((each) => each.classes ?? Infinity)); // that all of them have
  for (const each of document.querySelectorAll(".of-text")) each.hidden = !models.some((each) => each.text);
  $(".of-classes").hidden = classes === Infinity;
  $("#classes-help").textContent = `0 to ${classes - 1}, as 3 or 0,1,2; or none`;
  $("#inpainting").hidden = model.shape.length !== 3;
  if (picture && String(picture.shape) !== String(model.shape)) noPicture();
}

function axis(side) {
  const { root } = side, model = modelOf(side), { logsnr, weight } = model.curve;
  const [low, high] = [logsnr[0], logsnr[logsnr.length - 1]];
  for (const [name, value] of [["low", low], ["high", high]]) {
    const input = $(`.${name}`, root);
    [input.min, input.max] = [low, high];
    input.value = value;
  }
  const points = weight.map((w, i) => `${(320 * (logsnr[i] - low)) / (high - low)} ${78 - 70 * w}`);
  $(".curve", root).setAttribute("d", points.length ? `M ${points.join(" L ")}` : "");
  $(".curve-name", root).textContent = points.length ? "loss weighting (on ε)" : "";
  $(".noisy", root).textContent = `noise ${low}`;
  $(".clean", root).textContent = `${high} clean`;
  $(".guidance", root).hidden = !model.guided;
  $(".num_steps", root).value = Math.min(model.steps || 64, state.steps);
  showGuidance(side);
}

function interval(side) {
  const [low, high] = ["low", "high"].map((name) => $(`.${name}`, side.root));
  if (Number(low.value) <= Number(low.min) && Number(high.value) >= Number(high.max)) return null; // everywhere
  return [Number(low.value), Number(high.value)];
}

function intervalMoved(side, moved) {
  const [low, high] = ["low", "high"].map((name) => $(`.${name}`, side.root));
  if (moved === "low") low.value = Math.min(low.value, high.value - 0.1);
  else high.value = Math.max(high.value, Number(low.value) + 0.1);
  showGuidance(side);
}

function showGuidance(side) {
  const { root } = side, found = interval(side), low = $(".low", root), high = $(".high", root);
  const scale = Number($(".scale", root).value), span = high.max - low.min;
  $(".scale-shown", root).textContent = scale === 1 ? "1 (none)" : scale;
  $(".interval-shown", root).textContent = found ? `${found[0]} to ${found[1]}` : "any";
  $(".interval", root).classList.toggle("unused", scale === 1);
  $(".band", root).setAttribute("x", (320 * (low.value - low.min)) / span);
  $(".band", root).setAttribute("width", (320 * (high.value - low.value)) / span);
}

const number = (selector, root) => ($(selector, root).value === "" ? null : Number($(selector, root).value));

function settingsOf(side) {
  const { root } = side, model = modelOf(side);
  return {
    model: Number($(".model", root).value), sampler: $(".sampler", root).value, num_steps: number(".num_steps", root),
    noise_levels: $(".noise_levels", root).value, resamplings: picture ? number(".resamplings", root) : 1,
    scale: model.guided ? number(".scale", root) : 1, interval: model.guided ? interval(side) : null,
  };
}

// -- drawing ---------------------------------------------------------------------------------------------------------

async function draw() {
  const drawn = sides.filter((side) => !side.root.hidden);
  const shared = { count: number("#count"), seed: number("#seed"), classes: $("#classes").value, text: $("#text").value };
  shared.negative_text = $("#negative_text").value;
  if (picture) Object.assign(shared, { known: picture.known, painted: base64(picture.painted) });
  running = new AbortController();
  busy(true, "Asked …");
  try {
    const body = JSON.stringify({ shared, sides: drawn.map(settingsOf) });
    const answer = await fetch("/draw", { method: "POST", headers: HEADERS, body, signal: running.signal });
    if (!answer.ok) throw new Error((await answer.json()).error);
    for (const side of drawn) Object.assign(side, { frames: [], finished: false });
    for await (const event of events(answer.body)) happened(event, drawn);
    if (!drawn.every((side) => side.finished)) throw new Error("The program ended before all was drawn: does sid2-play still run?");
    busy(false, "Done.");
  } catch (error) {
    busy(false, error.name === "AbortError" ? "Stopped." : "");
    if (error.name !== "AbortError") wrong(error);
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function happened(event, drawn) {
  if (event.error) throw new Error(event.error);
  if ("ahead" in event) {
    const wait = event.ahead === null ? "At work; the first time also compiles …" : `Waiting: ${event.ahead} before this …`;
    if (event.ahead !== null || !drawn.some((side) => side.frames.length)) $("#status").textContent = wait;
    return;
  }
  const side = drawn[event.side], { root } = side;
  if (event.command) {
    $(".command", root).textContent = event.command;
    $(".python", root).textContent = event.python;
    $(".code", root).hidden = false;
  } else if (event.x_hat) {
    side.frames.push(event);
    $(".trajectory", root).hidden = false;
    $(".frame", root).max = side.frames.length - 1;
    $(".frame", root).value = side.frames.length - 1;
    show(side, side.frames.length - 1);
    if (side === drawn[0] && side.frames.length === 1 && innerWidth <= 820) root.scrollIntoView({ behavior: "smooth" });
  } else if (event.digest) {
    root.dataset.digest = event.digest;
    side.finished = true;
  }
  if (event.done) $("#status").textContent = `Setting ${SIDES[sides.indexOf(side)]}: step ${event.done} of ${event.steps}`;
}

function show(side, index) {
  const { root } = side, frame = side.frames[index], box = $(".pictures", root), model = modelOf(side);
  const shown = $(".noisy-shown", root).checked ? frame.z_t : frame.x_hat;
  const whole = frame.done === frame.steps && shown === frame.x_hat && model.shape.length === 3;
  box.classList.toggle("large", Math.max(...model.shape.slice(0, -1)) > 64 || model.shape.length === 4);
  while (box.children.length > shown.length) box.lastChild.remove();
  while (box.children.length < shown.length) box.append(newFigure(side));
  shown.forEach((data, i) => {
    const figure = box.children[i];
    $("img", figure).src = `data:image/png;base64,${data}`;
    $("img", figure).alt = `Picture ${i + 1}: ${frame.captions[i] || "drawn"}`;
    $("span", figure).textContent = frame.captions[i];
    $("button", figure).hidden = !whole;
  });
  $(".step", root).textContent = `step ${frame.done} of ${frame.steps}`;
}

function newFigure() {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "repaint";
  button.onclick = () => repaint($("img", figure).src);
  caption.append(document.createElement("span"), button);
  figure.append(new Image(), caption);
  return figure;
}

function busy(is, told) {
  $("#draw").disabled = is;
  $("#stop").disabled = !is;
  $("#status").textContent = told;
  if (is) $("#error").hidden = true;
}

function wrong(error) {
  $("#error").textContent = error instanceof TypeError ? "The program does not answer: does sid2-play still run?" : error.message;
  $("#error").hidden = false;
}

async function copy(button) {
  const text = button.parentElement.nextElementSibling;
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch { // browsers allow it on this machine's own addresses only
    getSelection().selectAllChildren(text);
    button.textContent = "Selected: copy it";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// -- inpainting ------------------------------------------------------------------------------------------------------

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

async function upload(data) {
  $("#error").hidden = true;
  try {
    if (data.size > state.most_bytes) throw new Error(`That is more than the ${state.most_bytes / 2 ** 20} MiB that are taken.`);
    const answer = await fetch(`/upload?model=${$(".model", sides[0].root).value}`, { method: "POST", headers: HEADERS, body: data });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    await take(found);
  } catch (error) {
    noPicture();
    wrong(error);
  }
}

async function repaint(source) {
  const bytes = Uint8Array.from(atob(source.split(",")[1]), (letter) => letter.charCodeAt(0));
  $("#inpainting").open = true;
  await upload(new Blob([bytes]));
  $("#inpainting").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

async function take(found) {
  const shape = modelOf(sides[0]).shape, [height, width] = shape;
  picture = { known: found.known, shape, painted: new Uint8Array(height * width) };
  for (const id of ["#known", "#painted"]) [$(id).width, $(id).height] = [width, height];
  const image = new Image();
  image.src = `data:image/png;base64,${found.picture}`;
  await image.decode();
  $("#known").getContext("2d").drawImage(image, 0, 0);
  $("#brush").max = Math.max(2, Math.round(Math.min(height, width) / 2));
  $("#brush").value = Math.max(1, Math.round(Math.min(height, width) / 6));
  $("#brushing").hidden = false;
  document.body.classList.add("inpaints");
  showPaint();
}

function noPicture() {
  picture = null;
  $("#brushing").hidden = true;
  document.body.classList.remove("inpaints");
  $("#file").value = "";
}

function showPaint() {
  const canvas = $("#painted"), context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
  picture.painted.forEach((on, i) => pixels.data.set(on ? [230, 60, 60, 170] : [0, 0, 0, 0], 4 * i));
  context.putImageData(pixels, 0, 0);
}

function brushOn(canvas) {
  const paint = (event) => {
    if (!picture || !event.buttons) return;
    const box = canvas.getBoundingClientRect(), size = Number($("#brush").value) / 2;
    const x = ((event.clientX - box.left) / box.width) * canvas.width, y = ((event.clientY - box.top) / box.height) * canvas.height;
    for (let row = 0; row < canvas.height; row++)
      for (let column = 0; column < canvas.width; column++) {
        const near = Math.hypot(column + 0.5 - x, row + 0.5 - y) <= Math.max(size, 0.71);
        if (near) picture.painted[row * canvas.width + column] = 1;
      }
    showPaint();
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); paint(event); });
  canvas.addEventListener("pointermove", paint);
}

start().catch(wrong);
