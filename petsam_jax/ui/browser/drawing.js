// How prompts look on the stage. All functions take a canvas context in CSS pixels and the view.

export const PET = '#16a34a';
export const BACKGROUND = '#dc2626';
export const UNREAD = '#78716c';
export const DOT = 8;

export function drawStroke(context, view, { radius, points }, colour) {
  const { x, y, scale } = view;
  context.save();
  context.globalAlpha *= 0.35;
  context.strokeStyle = colour;
  context.lineCap = context.lineJoin = 'round';
  context.lineWidth = 2 * radius * scale;
  context.beginPath();
  for (let i = 0; i < points.length; i += 2) context.lineTo(x + (points[i] + 0.5) * scale, y + (points[i + 1] + 0.5) * scale);
  // So that a single point becomes a dot.
  context.lineTo(x + (points.at(-2) + 0.5) * scale + 0.01, y + (points.at(-1) + 0.5) * scale);
  context.stroke();
  context.restore();
}

// The first corner is green, the second red.
export function drawBox(context, view, [x0, y0, x1, y1], colour, dashed = false) {
  const { x, y, scale } = view;
  const [left, top] = [x + Math.min(x0, x1) * scale, y + Math.min(y0, y1) * scale];
  const [width, height] = [(Math.abs(x1 - x0) + 1) * scale, (Math.abs(y1 - y0) + 1) * scale];
  context.setLineDash(dashed ? [6, 4] : []);
  for (const [style, line] of [['rgba(255, 255, 255, .85)', 4], [colour, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.strokeRect(left, top, width, height);
  }
  context.setLineDash([]);
  drawCorner(context, view, [x0, y0], PET);
  drawCorner(context, view, [x1, y1], BACKGROUND);
}

export function drawCorner(context, view, pixel, colour = PET, radius = 5) {
  drawDot(context, ...view.place(...pixel), colour, radius);
}

function drawDot(context, x, y, colour, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = '#fff';
  context.stroke();
}

// With a plus or minus for people who cannot tell green from red; a cross if a click would remove it.
export function drawClick(context, view, pixel, label, isRemovable) {
  const [x, y] = view.place(...pixel);
  context.save();
  context.shadowColor = 'rgba(0, 0, 0, .45)';
  context.shadowBlur = 4;
  drawDot(context, x, y, '#fff', DOT);
  context.restore();
  drawDot(context, x, y, label == null ? UNREAD : label ? PET : BACKGROUND, DOT);
  context.strokeStyle = '#fff';
  context.lineWidth = 2;
  context.beginPath();
  if (isRemovable) {
    for (const side of [-1, 1]) context.moveTo(x - 3, y - 3 * side), context.lineTo(x + 3, y + 3 * side);
  } else if (label != null) {
    context.moveTo(x - 4, y), context.lineTo(x + 4, y);
    if (label) context.moveTo(x, y - 4), context.lineTo(x, y + 4);
  }
  context.stroke();
  if (!isRemovable) return;
  context.lineWidth = 1.5;
  context.beginPath();
  context.arc(x, y, DOT + 4, 0, 7);
  context.stroke();
}

// The cross that the keyboard moves.
export function drawCross(context, view, pixel) {
  const [x, y] = view.place(...pixel);
  for (const [style, line] of [['rgba(255, 255, 255, .9)', 4], ['#111', 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    context.stroke();
  }
}
