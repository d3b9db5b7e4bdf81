// Mouse, pen, touch and keyboard on the stage, as gestures.
//
// `on` has click(x, y, isOpposite), drag(x0, y0, x1, y1, isDone), stroke(points, isDone), hover(x, y),
// leave(), cancel(), zoom(factor, x, y), move(dx, dy), and key(event), which returns whether it was used.

const DRAG_FROM = 5;
const LONG_PRESS = 550;

export class Gestures {
  // `kind` is what a press starts: 'stroke', 'pan', or anything else for clicks and drags.
  constructor(canvas, view, on) {
    Object.assign(this, { canvas, view, on, kind: 'click', pointers: new Map(), press: null, space: false });
    const listen = (name, handle, options) => canvas.addEventListener(name, handle, options);
    listen('pointerdown', (event) => this.down(event));
    listen('pointermove', (event) => this.moved(event));
    listen('pointerup', (event) => this.up(event));
    listen('pointercancel', (event) => this.lost(event));
    listen('pointerleave', () => this.on.leave());
    // The focus ring is only for keyboard users.
    listen('focus', () => (this.canvas.parentElement.dataset.keys = ''));
    listen('contextmenu', (event) => event.preventDefault());
    listen('wheel', (event) => this.wheel(event), { passive: false });
    listen('keydown', (event) => this.keyDown(event));
    listen('keyup', (event) => event.code === 'Space' && (this.space = false));
    listen('blur', () => (this.space = false));
  }

  at(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  down(event) {
    if (event.button > 2) return;
    this.canvas.focus({ preventScroll: true });
    delete this.canvas.parentElement.dataset.keys;
    this.canvas.setPointerCapture(event.pointerId);
    const place = this.at(event);
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size === 2) return this.pinchStart();
    const isPan = this.kind === 'pan' || this.space || event.button === 1;
    // On a Mac, Ctrl+click is a right click.
    const isOpposite = event.button === 2 || event.shiftKey || event.ctrlKey;
    this.press = { place, last: place, kind: isPan ? 'pan' : 'click', isOpposite, isTouch: event.pointerType === 'touch', points: [place] };
    if (this.press.isTouch && !isPan) this.press.timer = setTimeout(() => this.longPress(), LONG_PRESS);
    if (this.kind === 'stroke' && !isPan) this.extendStroke(event);
    event.preventDefault();
  }

  longPress() {
    if (this.press?.kind !== 'click') return;
    navigator.vibrate?.(15);
    this.press.isOpposite = true;
    this.finishClick();
  }

  moved(event) {
    const place = this.at(event);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, place);
    if (this.pinch) return this.pinchMove();
    const { press } = this;
    if (!press) return this.on.hover(...place);
    const [dx, dy] = [place[0] - press.last[0], place[1] - press.last[1]];
    if (press.kind === 'pan') this.on.move(dx, dy);
    else if (press.kind === 'stroke') this.extendStroke(event);
    else if (press.kind === 'drag' || (press.kind === 'click' && Math.hypot(place[0] - press.place[0], place[1] - press.place[1]) > DRAG_FROM)) {
      clearTimeout(press.timer);
      press.kind = 'drag';
      this.on.drag(...press.place, ...place, false);
    }
    press.last = place;
  }

  extendStroke(event) {
    this.press.kind = 'stroke';
    // All positions since the last frame, for a smooth line.
    const steps = event.type === 'pointermove' ? event.getCoalescedEvents?.() ?? [event] : [];
    for (const step of steps.length ? steps : [event]) this.press.points.push(this.at(step));
    this.on.stroke(this.press.points, false);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.pinch) {
      if (!this.pointers.size) this.pinch = null;
      return;
    }
    const { press } = this;
    if (!press) return;
    if (press.kind === 'click') return this.finishClick();
    if (press.kind === 'drag') this.on.drag(...press.place, ...this.at(event), true);
    if (press.kind === 'stroke') this.on.stroke(press.points, true);
    this.press = null;
  }

  finishClick() {
    const { place, isOpposite, timer } = this.press;
    clearTimeout(timer);
    this.press = null;
    this.on.click(...place, isOpposite);
  }

  lost(event) {
    this.pointers.delete(event.pointerId);
    this.cancel();
  }

  // Returns whether a gesture was in progress.
  cancel() {
    const wasBusy = Boolean(this.press);
    clearTimeout(this.press?.timer);
    this.press = null;
    if (wasBusy) this.on.cancel();
    return wasBusy;
  }

  pinchStart() {
    this.cancel();
    this.pinch = this.fingers();
  }

  pinchMove() {
    if (this.pointers.size < 2) return;
    const [before, now] = [this.pinch, this.fingers()];
    this.on.zoom(now.distance / before.distance, now.x, now.y);
    this.on.move(now.x - before.x, now.y - before.y);
    this.pinch = now;
  }

  fingers() {
    const [[x0, y0], [x1, y1]] = this.pointers.values();
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, distance: Math.max(1, Math.hypot(x1 - x0, y1 - y0)) };
  }

  // Ctrl + wheel, which is also a touchpad's pinch, zooms. The wheel alone moves an image that is larger
  // than the stage; otherwise it scrolls the page.
  wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const steps = event.deltaMode ? event.deltaY * 20 : event.deltaY;
      this.on.zoom(Math.exp(-steps * 0.004), ...this.at(event));
    } else if (this.view.isLarger) {
      event.preventDefault();
      const [dx, dy] = event.shiftKey ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
      this.on.move(-dx, -dy);
    }
  }

  keyDown(event) {
    this.canvas.parentElement.dataset.keys = '';
    if (event.code === 'Space' && !event.repeat) this.space = true;
    if (event.key === 'Escape' && this.cancel()) return event.preventDefault();
    if (this.on.key(event) || event.code === 'Space') event.preventDefault();
  }
}
