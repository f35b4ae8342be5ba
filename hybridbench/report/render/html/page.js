// Draws the charts of a report when they come into view, and makes their legends and tables.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("charts").textContent);
  const TEXT = {labelColor: "currentColor", titleColor: "currentColor"};
  const CONFIG = {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: {stroke: null},
    axis: {
      ...TEXT, gridColor: "var(--grid)", domainColor: "var(--line)", tickColor: "var(--line)",
      labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
    },
    header: TEXT,
    text: {color: "currentColor"},
  };
  const SHAPES = {
    circle: "M6 1a5 5 0 1 0 .01 0z",
    square: "M1.5 1.5h9v9h-9z",
    diamond: "M6 0l5 6-5 6-5-6z",
    cross: "M4 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "triangle-up": "M6 1l5.5 10h-11z",
    "triangle-down": "M6 11l5.5-10h-11z",
    "triangle-left": "M1 6l10-5.5v11z",
    "triangle-right": "M11 6l-10-5.5v11z",
  };
  const SVG = "http://www.w3.org/2000/svg";
  const digits = new Intl.NumberFormat("en-US", {maximumSignificantDigits: 7});

  function element(tag, words, name) {
    const made = document.createElement(tag);
    if (words !== undefined) made.textContent = words;
    if (name) made.className = name;
    return made;
  }

  function sign(width, draw) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} 12`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", 12);
    const path = document.createElementNS(SVG, "path");
    draw(path);
    svg.append(path);
    return svg;
  }

  function legend(chart, box, changed) {
    for (const [name, color, shape] of chart.legend) {
      const button = element("button");
      button.type = "button";
      button.title = "hide or show";
      button.setAttribute("aria-pressed", "true");
      button.append(sign(12, (path) => {
        path.setAttribute("d", SHAPES[shape] || SHAPES.circle);
        path.setAttribute("fill", color);
      }), name);
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        changed(name, shown);
      });
      box.append(button);
    }
    for (const [name, look] of chart.lines) {
      const item = element("span");
      item.append(sign(28, (path) => {
        path.setAttribute("d", look === "tick" ? "M14 0v12" : "M0 6h28");
        path.setAttribute("stroke", "currentColor");
        path.setAttribute("stroke-width", 2);
        if (look === "dashed") path.setAttribute("stroke-dasharray", "5 4");
      }), name);
      box.append(item);
    }
  }

  function behind(chart, details) {
    const columns = chart.columns.map(([field, heading], at) => [heading, at]).filter(([heading]) => heading);
    const table = element("table"), head = element("tr"), body = element("tbody");
    for (const [heading] of columns) head.append(element("th", heading));
    for (const row of chart.rows) {
      const line = element("tr");
      for (const [, at] of columns) {
        const number = typeof row[at] === "number";
        line.append(element("td", number ? digits.format(row[at]) : row[at] ?? "", number ? "n" : ""));
      }
      body.append(line);
    }
    for (const [series, place, word] of chart.failed || []) {
      const line = element("tr");
      line.append(element("td", series), element("td", digits.format(place), "n"));
      const why = element("td", word, "bad");
      why.colSpan = columns.length - 2;
      line.append(why);
      body.append(line);
    }
    const top = element("thead"), wide = element("div", undefined, "wide");
    top.append(head);
    table.append(top, body);
    wide.append(table);
    wide.tabIndex = 0;
    details.append(wide);
  }

  function definition(chart, width) {
    const spec = structuredClone(page.specs[chart.spec]);
    const names = chart.columns.map(([field]) => field);
    spec.datasets = {rows: chart.rows.map((row) => Object.fromEntries(row.map((part, at) => [names[at], part])))};
    if (chart.guides) spec.datasets.guides = chart.guides;
    spec.config = CONFIG;
    if (chart.facet) {
      const columns = Math.max(1, Math.min(3, Math.floor(width / 340)));
      spec.facet = spec.facet.column;
      spec.columns = columns;
      spec.spec.width = Math.floor(width / columns) - 80;
    } else {
      spec.width = "container";
      spec.autosize = {type: "fit-x", contains: "padding"};
      if (chart.bars) spec.padding = {left: 5, top: 5, bottom: 5, right: 45};  // for the number after the longest bar
    }
    return spec;
  }

  async function draw(figure) {
    const chart = page.charts[Number(figure.id.slice("chart-".length))];
    const box = figure.querySelector(".plot");
    const made = await vegaEmbed(box, definition(chart, box.clientWidth), {
      renderer: "svg", actions: false, tooltip: {theme: "page"},
    });
    const hidden = new Set();
    legend(chart, figure.querySelector(".legend"), (name, shown) => {
      if (shown) hidden.delete(name); else hidden.add(name);
      made.view.signal("hidden", [...hidden]).runAsync();
    });
    figure.dataset.drawn = "yes";
  }

  const waiting = new Set(document.querySelectorAll("figure"));
  const drawn = [];
  function start(figure) {
    if (!waiting.delete(figure)) return;
    watcher.unobserve(figure);
    drawn.push(draw(figure).catch((wrong) => {
      figure.querySelector(".plot").textContent = `This chart cannot be drawn: ${wrong}`;
      console.error(wrong);
    }));
  }
  const watcher = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) start(one.target);
  }, {rootMargin: "800px"});
  for (const figure of waiting) {
    watcher.observe(figure);
    const details = figure.querySelector("details.behind");
    details.addEventListener("toggle", () => {
      behind(page.charts[Number(figure.id.slice("chart-".length))], details);
    }, {once: true});
  }
  window.drawAll = () => {
    for (const figure of [...waiting]) start(figure);
    return Promise.all(drawn);
  };
  window.addEventListener("beforeprint", window.drawAll);
})();
