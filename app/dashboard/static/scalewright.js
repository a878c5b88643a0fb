// The whole script: draw the figures of a page, follow a live run, answer what-if questions.
"use strict";

const all = (what, inside = document) => [...inside.querySelectorAll(what)];

// The figure's own colours suit both grounds; ink, grid and hover label follow the page.
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const [ink, grid, muted, surface] = ["--ink", "--grid", "--muted", "--surface"].map(
    (name) => style.getPropertyValue(name).trim());
  const copy = structuredClone(layout);
  const base = copy.template.layout;
  base.font.color = ink;
  base.modebar = { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink };
  base.hoverlabel = { ...base.hoverlabel, bgcolor: surface, bordercolor: muted };
  base.hoverlabel.font = { ...base.hoverlabel.font, color: ink };
  base.xaxis.gridcolor = base.yaxis.gridcolor = grid;
  return copy;
}

// On a narrow screen names to the left of an axis would leave it no room: they go above their rows.
function fitted(layout, data, width) {
  if (!(width && layout.margin?.l > 0.5 * width)) return layout;
  const names = [...new Set(data.flatMap((trace) => [...trace.y]))];
  const above = names.map((name) => ({ text: name, x: 0, xref: "paper", xanchor: "left",
    y: name, yshift: 14, showarrow: false }));
  return { ...layout, margin: { ...layout.margin, l: 12 }, annotations: above,
    yaxis: { ...layout.yaxis, showticklabels: false }, xaxis: { ...layout.xaxis, nticks: 4 } };
}

function draw(element, figure) {
  element.figure = figure;
  if (!element.data) element.replaceChildren(); // what the page was sent with, see sketch.py
  const layout = fitted(themed(figure.layout), figure.data, element.clientWidth);
  return Plotly.react(element, figure.data, layout, figure.config).then(() => {
    // the figure has a name and a note; its many layers have none to be read out
    const layers = [...all("svg", element), ...all("#js-plotly-tester")];
    for (const layer of layers) layer.setAttribute("aria-hidden", "true");
  });
}

function drawAll() {
  for (const element of all("[data-figure]"))
    draw(element, element.figure
      ?? JSON.parse(document.getElementById(element.dataset.figure).textContent));
}

// A live run: an event says that something is new, the server draws what it is.
function follow(section) {
  let waiting = false, turn = Promise.resolve();
  async function refresh() {
    waiting = false;
    const answer = await fetch(section.dataset.live);
    if (!answer.ok) return;
    const figure = await answer.json();
    const plot = section.querySelector("[data-figure]");
    // the first point, and the end of the run, change more than the figure
    if (figure.run.ended || (!plot && figure.data)) return location.reload();
    if (plot) await draw(plot, figure);
    for (const step of all("[data-live-step]"))
      step.textContent = figure.run.step.toLocaleString("en");
    for (const [name, said] of Object.entries(figure.run.out)) show(name, ...said);
  }
  function soon() {
    // one look after the other: an answer that comes late is never drawn over a newer one
    if (!waiting) setTimeout(() => { turn = turn.then(refresh, refresh); }, 1000);
    waiting = true;
  }
  const events = new EventSource(section.dataset.events);
  for (const name of section.dataset.names.split(" ")) events.addEventListener(name, soon);
  // a lost connection is taken up again by itself; a refusal, as of a revoked key, is the end
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED)
      section.querySelector("[data-stopped]").hidden = false;
  });
  addEventListener("pagehide", () => events.close());
}

// ---- what if: numbers from the REST API, written as app/dashboard/text.py writes them ----

const LETTERS = { T: 1e12, B: 1e9, G: 1e9, M: 1e6, k: 1e3, K: 1e3 };

function parse(shown) {
  const plain = shown.replace(/[\s,_]/g, "");
  const factor = LETTERS[plain.slice(-1)];
  return factor ? Number(plain.slice(0, -1)) * factor : Number(plain);
}

function quantity(value, unit = "", digits = 3) {
  if (value === 0) return "0";
  if (/parameters|tokens|steps|samples|documents|bytes|sequences/i.test(unit)) {
    const letter = ["T", "B", "M", "k"].find((one) => value.toPrecision(digits) >= LETTERS[one]);
    if (value < 1e15)
      return letter ? (value / LETTERS[letter]).toPrecision(digits) + letter : value.toFixed();
  } else if (unit !== "FLOPs" && value >= 1e-4 && value < 1e6) {
    return value.toLocaleString("en", {
      minimumSignificantDigits: digits, maximumSignificantDigits: digits });
  }
  const [head, power] = value.toExponential(digits - 1).split("e");
  const raised = [...String(Number(power))].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  return `${head} × 10${raised.join("")}`;
}

function reach(values) {
  const beyond = Object.entries(values).filter(([, times]) => times > 1 + 1e-9)
    .map(([name, times]) => `${quantity(times, "", times < 100 ? 2 : 3)}× in ${name}`);
  return beyond.length ? beyond.join(", ") + " beyond the largest run" : "within the range of the runs";
}

const loss = (value) => value.toFixed(3);
const between = (pair, shown) => (pair ? `[${shown(pair[0])}, ${shown(pair[1])}]` : "–");

async function ask(address, body) {
  const answer = await fetch(address, body && {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const found = await answer.json();
  if (!answer.ok) throw new Error([found.detail, found.hint].filter(Boolean).join(" "));
  return found;
}

function show(name, shown, exact = shown, tone = null) {
  for (const element of all(`[data-out="${name}"]`)) {
    element.textContent = shown;
    element.title = exact;
    if (tone !== null) element.className = `notice ${tone}`;
  }
}

function showPrediction({ inputs, ...run }, largest) {
  show("loss", loss(run.loss), run.loss);
  show("interval", between([run.lower, run.upper], loss), `[${run.lower}, ${run.upper}]`);
  const flops = 6 * inputs.N * inputs.D;
  show("reach", reach({ ...run.reach, compute: flops / largest }));
  show("flops", quantity(flops, "FLOPs"));
  show("ratio", quantity(inputs.D / inputs.N));
}

function showAllocation({ optimal, intervals, budget_flops, warnings }, largest) {
  show("budget", quantity(budget_flops, "FLOPs"));
  for (const [name, unit] of [["N", "parameters"], ["D", "tokens"], ["tokens_per_parameter", ""]]) {
    show(name, quantity(optimal[name], unit), optimal[name]);
    show(name + "-interval", between(intervals[name], (value) => quantity(value, unit)));
  }
  show("best", loss(optimal.loss), optimal.loss);
  show("best-interval", between([optimal.lower, optimal.upper], loss));
  show("best-reach", reach({
    N: optimal.reach_N, D: optimal.reach_D, compute: budget_flops / largest }));
  notices("allocation", warnings);
}

function notices(of, warnings) {
  for (const box of all(`[data-warnings="${of}"]`))
    box.replaceChildren(...warnings.map(({ message }) => Object.assign(
      document.createElement("p"), { className: "notice", textContent: message })));
}

function whatIf(form) {
  const fit = Number(form.dataset.whatif), largest = Number(form.dataset.largest);
  let turn = 0, timer;
  async function answer() {
    const mine = ++turn, state = form.querySelector("[data-state]");
    const values = all("input[data-unit]", form).map((input) => [input.name, parse(input.value)]);
    const { budget, ...inputs } = Object.fromEntries(values);
    const { N, D, ...fixed } = inputs;
    const query = new URLSearchParams([["fit", fit], ...values]);
    try {
      const [prediction, allocation, figure] = await Promise.all([
        ask("/v1/predictions", { fit, points: [inputs] }),
        budget && ask("/v1/allocations", { fit, budget_flops: budget, fixed }),
        ask("/predict/figure.json?" + query)]);
      if (mine !== turn) return; // a later question is under way
      showPrediction(prediction.predictions[0], largest);
      notices("prediction", prediction.warnings);
      if (allocation) showAllocation(allocation, largest);
      for (const plot of all("#answer")) draw(plot, figure);
      history.replaceState(null, "", "?" + query);
      state.textContent = "";
    } catch (error) {
      if (mine === turn) state.textContent = error.message;
    }
  }
  bind(form, () => { clearTimeout(timer); timer = setTimeout(answer, 120); });
  form.addEventListener("submit", (event) => { event.preventDefault(); answer(); });
}

// Each slider moves its number and each number its slider; `soon` is told of both.
function bind(form, soon) {
  for (const slider of all("input[type=range]", form)) {
    const input = document.getElementById(slider.dataset.for);
    const log = "log" in slider.dataset;
    slider.addEventListener("input", () => {
      const value = log ? 10 ** slider.value : Number(slider.value);
      input.value = input.dataset.unit === "FLOPs"
        ? value.toExponential(2).replace("e+", "e") : quantity(value, input.dataset.unit);
      soon();
    });
    input.addEventListener("input", () => {
      slider.value = log ? Math.log10(parse(input.value)) : parse(input.value);
      soon();
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  if (window.Plotly) drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  all("[data-live]").forEach(follow);
  all("[data-whatif]").forEach(whatIf);
  for (const form of all("[data-ask]")) {
    bind(form, () => {});
    for (const slider of all("input[type=range]", form))
      slider.addEventListener("change", () => form.requestSubmit());
  }
  for (const input of all("[data-submit]"))
    input.addEventListener("change", () => input.form.submit());
});
