"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const drawn = new Set();

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const layout = (x, y, more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--text"), size: 13 },
    margin: { l: 70, r: 20, t: 20, b: 60 }, hovermode: "closest",
    xaxis: { title: { text: x }, gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true },
    yaxis: { title: { text: y }, gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true },
    ...more,
  });
  const options = { responsive: true, displaylogo: false };

  // the best so far from the smallest on
  const frontOf = (xs, ys, higher) => {
    const places = xs.map((_, i) => i).filter((i) => xs[i] !== null && ys[i] !== null);
    places.sort((a, b) => xs[a] - xs[b] || (higher ? ys[b] - ys[a] : ys[a] - ys[b]));
    let best = null;
    return places.filter((i) => {
      if (best !== null && (higher ? ys[i] <= best : ys[i] >= best)) return false;
      best = ys[i];
      return true;
    });
  };

  const scatter = (section, one) => {
    const y = section.querySelector(".pick-score").value, x = section.querySelector(".pick-size").value;
    const xs = one.sizes[x], ys = one.scores[y], spreads = one.spreads[y];
    const front = frontOf(xs, ys, one.better[y]);
    const figure = layout(x, y);
    if (xs.some((value) => value > 0)) figure.xaxis.type = "log";
    figure.showlegend = true;
    figure.legend = { orientation: "h", y: 1.08 };
    Plotly.react(section.querySelector(".plot-scores"), [
      { type: "scatter", mode: "markers", name: "candidates", x: xs, y: ys, text: one.names,
        marker: { size: 6, opacity: 0.6, color: colour("--mark") }, hovertemplate: "%{text}<br>%{x}, %{y}<extra></extra>",
        error_y: { type: "data", array: spreads, visible: spreads.some((s) => s !== null) && xs.length <= 300, thickness: 1 } },
      { type: "scatter", mode: "lines+markers", name: "front", x: front.map((i) => xs[i]), y: front.map((i) => ys[i]),
        text: front.map((i) => one.names[i]), line: { color: colour("--text"), width: 1.5, shape: "hv" },
        hovertemplate: "%{text}<br>%{x}, %{y}<extra>front</extra>" },
    ], figure, options);
  };

  const layers = (section, one) => {
    const picker = section.querySelector(".pick-candidate");
    if (!picker) return;
    const found = one.profiles[picker.value], what = section.querySelector(".pick-what");
    const rows = found.layers, interval = found.interval;
    const inside = (row) => !interval || (row.tenth >= interval[0] && row.tenth <= interval[1]);
    const first = rows.findIndex(inside), last = rows.length - 1 - [...rows].reverse().findIndex(inside);
    const figure = layout("weight layer, in order of the depth", what.selectedOptions[0].textContent);
    if (interval && first >= 0) {
      figure.shapes = [{ type: "rect", xref: "x", yref: "paper", x0: first - 0.5, x1: last + 0.5, y0: 0, y1: 1,
        fillcolor: colour("--mark"), opacity: 0.12, line: { width: 0 } }];
    }
    Plotly.react(section.querySelector(".plot-layers"), [{
      type: "bar", x: rows.map((_, i) => i), y: rows.map((row) => row[what.value]), text: rows.map((row) => row.name),
      textposition: "none", hovertemplate: "%{text}<br>%{y}<extra></extra>",
      marker: { color: colour("--mark"), opacity: rows.map((row) => (inside(row) ? 1 : 0.35)) },
    }], figure, options);
    section.querySelector(".interval").textContent = interval
      ? `Shaded: tenths ${interval[0]} to ${interval[1]} of the depth, the interval that counts.`
      : "All layers count: no interval was set.";
    const table = section.querySelector(".layer-table");
    table.caption.textContent = `Layers of ${picker.value}, seed ${found.seed}`;
    const short = (value) => (value === null ? "-" : Number(value.toPrecision(4)).toString());
    table.tBodies[0].replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = row.name;
      line.append(head);
      for (const [place, text] of [row.kind, row.size, row.tenth, short(row.trainability), short(row.deviation), short(row.term)].entries()) {
        const cell = line.insertCell();
        cell.textContent = text;
        if (place === 0) cell.className = "text";
      }
      return line;
    }));
  };

  // a picture is drawn when it comes into sight: its library is read then, which takes a second
  const library = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };
  const draw = (plot) => {
    const section = plot.closest("section"), one = data[Number(section.id.slice(6))];
    if (!one.names.length) return;
    library();
    drawn.add(plot);
    ({ scatter, layers })[plot.dataset.plot](section, one);
  };
  const redraw = () => [...drawn].forEach(draw);
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watch.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "200px" });

  const sort = (table, column, heading) => {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    const value = (row) => {
      const cell = row.cells[column];
      if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
      return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
    };
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => {
      const lost = (v) => v === "" || Number.isNaN(v); // what is missing comes last, either way
      if (lost(a) || lost(b)) return lost(a) - lost(b);
      const order = typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
      return rising ? order : -order;
    });
    table.tBodies[0].replaceChildren(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  };

  const filter = (section) => {
    const wanted = section.querySelector(".filter").value.trim().toLowerCase();
    const scored = section.querySelector(".scored").checked;
    const table = section.querySelector(".sortable"), all = section.querySelector(".all");
    const rows = table.tBodies[0].rows, most = Number(table.dataset.limit);
    const limit = all.getAttribute("aria-pressed") === "true" ? Infinity : most;
    let found = 0;
    for (const row of rows) {
      row.searched ??= (row.querySelector("th").textContent + " " + row.cells[row.cells.length - 1].textContent).toLowerCase();
      const fits = !(scored && row.classList.contains("lost")) && row.searched.includes(wanted);
      found += fits;
      row.hidden = !fits || found > limit;
    }
    all.hidden = found <= most;
    all.textContent = limit < found ? `Show all ${found}` : `Show the first ${most}`;
    section.querySelector(".shown").textContent =
      `${found} of ${rows.length} candidates` + (found > limit ? `, of which the first ${limit} are shown` : "");
  };

  document.querySelectorAll("table.sortable").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        sort(table, column, heading);
        if (table.dataset.limit) filter(table.closest("section"));
      });
    });
  });
  document.querySelectorAll("section.group").forEach((section, number) => {
    section.querySelector(".filter").addEventListener("input", () => filter(section));
    section.querySelector(".scored").addEventListener("change", () => filter(section));
    section.querySelector(".all").addEventListener("click", (event) => {
      event.target.setAttribute("aria-pressed", String(event.target.getAttribute("aria-pressed") !== "true"));
      filter(section);
    });
    for (const [what, name] of [[".pick-score, .pick-size", "scores"], [".pick-candidate, .pick-what", "layers"]]) {
      const plot = section.querySelector(`.plot-${name}`);
      section.querySelectorAll(what).forEach((one) => one.addEventListener("change", () => draw(plot)));
    }
    section.querySelectorAll(".plot").forEach((plot) => watch.observe(plot));
    filter(section);
  });
  const group = document.getElementById("group");
  if (group) {
    group.addEventListener("change", () => {
      document.querySelectorAll("section.group").forEach((section, number) => { section.hidden = String(number) !== group.value; });
    });
  }
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = document.getElementById("theme");
  const told = () => theme.setAttribute("aria-pressed", String(dark()));
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    told();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { told(); redraw(); });
  document.getElementById("print").addEventListener("click", () => window.print());
  // on paper: everything, in dark on white, whatever is on the screen
  let before;
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
    before = root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("section:not([hidden]) .plot").forEach(draw);
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    redraw();
  });
  told();
})();
