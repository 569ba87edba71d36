// Values under the pointer, and by the arrow keys, on curves and matrices. Places are in parts of the figure's picture.
const tip = document.querySelector(".tip");
let teller = null;  // the figure whose values stand there
const readable = value => Math.abs(value) >= 1e5 || value && Math.abs(value) < 1e-3 ? value.toExponential(2)
  : String(+value.toPrecision(4)).replace(/^-(?=0+(\.0*)?$)/, "");
// A label may end in its unit, as "recall, %"; that of an axis is the unit of all lines.
const named = (label, value, axis = label) => {
  const unit = axis.endsWith("%") ? " %" : "";
  return `${label.replace(/(, |^)%$/, "")} ${readable(value)}${unit}`.trim();
};
for (const figure of document.querySelectorAll("[data-tips]")) {
  const all = JSON.parse(figure.dataset.tips);
  let at = null;  // of lines the number of an x, of a matrix row and column
  const drawing = () => [...figure.querySelectorAll("svg")].findIndex(svg => svg.getClientRects().length);
  const spot = (axis, value) => {
    const scale = axis.log ? Math.log : (number => number), [low, high] = axis.limits.map(scale);
    return (scale(value) - low) / (high - low);
  };
  const rule = document.createElement("i");
  rule.className = "rule";
  rule.hidden = true;
  figure.append(rule);
  function tell(number) {
    at = number;
    const which = drawing(), svg = figure.querySelectorAll("svg")[which], {left, top, right, bottom} = all.frames[which];
    const box = svg.getBoundingClientRect(), outer = figure.getBoundingClientRect();
    const lines = [];
    let x, y;
    if (all.kind === "matrix") {
      const [row, column] = at, size = all.rows.length;
      lines.push(`${all.rows[row]} → ${all.rows[column]}: ${(100 * all.values[row][column]).toFixed(1)} %`);
      if (all.counts) lines.push(all.counts[row][column].toLocaleString("en-US"));
      x = left + (right - left) * (column + .5) / size;
      y = top + (bottom - top) * (row + .5) / size;
    } else {
      const value = xs[at];
      lines.push(all.spans ? `${all.x}: ${all.spans[at]}` : named(all.x, value));
      for (const line of all.lines) {
        const near = nearest(line.points, value);
        if (near) lines.push(named(line.label || all.y, near[1], all.y));
      }
      x = left + (right - left) * spot(all.axis, value);
      y = top;
      Object.assign(rule.style, {left: `${box.left - outer.left + figure.scrollLeft + x * box.width}px`,
        top: `${box.top - outer.top + top * box.height}px`, height: `${(bottom - top) * box.height}px`});
      rule.hidden = false;
    }
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    teller = figure;
    const width = tip.offsetWidth, room = document.documentElement.clientWidth;
    const beside = box.left + x * box.width + 14;
    tip.style.left = `${Math.max(4, beside + width > room - 4 ? beside - width - 28 : beside)}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top + y * box.height + 10, innerHeight - tip.offsetHeight - 4))}px`;
  }
  const xs = all.kind === "matrix" ? [] : [...new Set(all.lines.flatMap(line => line.points.map(point => point[0])))].sort((a, b) => a - b);
  const nearest = (points, x) => points.reduce((best, point) =>
    !best || Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best, null);
  const hide = () => {
    if (teller === figure) tip.hidden = true;
    rule.hidden = true;
    at = null;
  };
  figure.onpointermove = event => {
    const which = drawing(), box = figure.querySelectorAll("svg")[which].getBoundingClientRect();
    const {left, top, right, bottom} = all.frames[which];
    const x = ((event.clientX - box.left) / box.width - left) / (right - left);
    const y = ((event.clientY - box.top) / box.height - top) / (bottom - top);
    if (x < -.02 || x > 1.02 || y < -.02 || y > 1.02) return hide();
    const clip = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
    if (all.kind === "matrix") return tell([clip(y, all.rows.length), clip(x, all.rows.length)]);
    let best = 0;
    xs.forEach((value, number) => {
      if (Math.abs(spot(all.axis, value) - x) < Math.abs(spot(all.axis, xs[best]) - x)) best = number;
    });
    tell(best);
  };
  figure.onpointerleave = figure.onblur = hide;
  figure.onkeydown = event => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    if (all.kind === "matrix") {
      const size = all.rows.length, from = at || [0, -1];
      tell(from.map((number, axis) => (number + step[axis] + size) % size));
    } else tell(((at ?? -1) + (step[1] || -step[0]) + xs.length) % xs.length);
  };
}
