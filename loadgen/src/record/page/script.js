"use strict";
const tip = document.getElementById("tip");
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const chart = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const hide = () => { tip.style.visibility = "hidden"; cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * chart.width;
    let best = 0;
    chart.xs.forEach((at, i) => {
      if (Math.abs(at - x) < Math.abs(chart.xs[best] - x)) best = i;
    });
    if (chart.xs.length === 0) return;
    cursor.setAttribute("x1", chart.xs[best]);
    cursor.setAttribute("x2", chart.xs[best]);
    cursor.style.visibility = "visible";
    const said = chart.rows.filter((row) => row[1][best] !== null);
    tip.textContent = [chart.labels[best]]
      .concat(said.map((row) => row[0] + ": " + row[1][best])).join("\n");
    tip.style.visibility = "visible";
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
  });
}
