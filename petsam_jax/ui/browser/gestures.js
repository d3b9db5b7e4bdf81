// Mouse, pen, touch and keys on the stage, turned into what they mean.
//
// `does` has click(x, y, isOther), drag(x0, y0, x1, y1, isDone), stroke(points, isDone), hover(x, y),
// leave(), cancel(), zoom(factor, x, y), move(dx, dy), key(event) -> whether it was one of ours.

const SLOP = 5;
const LONG_PRESS = 550;

export class Gestures {
  constructor(canvas, view, does) {
    Object.assign(this, { canvas, view, does, tool: 'points', pointers: new Map(), press: null, space: false });
    const on = (name, handle, options) => canvas.addEventListener(name, handle, options);
    on('pointerdown', (event) => this.down(event));
    on('pointermove', (event) => this.moved(event));
    on('pointerup', (event) => this.up(event));
    on('pointercancel', (event) => this.drop(event));
    on('pointerleave', () => this.does.leave());
    // The stage shows that it has the focus to who came by keys.
    on('focus', () => (this.canvas.parentElement.dataset.keys = ''));
    on('contextmenu', (event) => event.preventDefault());
    on('wheel', (event) => this.wheel(event), { passive: false });
    on('keydown', (event) => this.keyDown(event));
    on('keyup', (event) => event.code === 'Space' && (this.space = false));
    on('blur', () => (this.space = false));
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
    const isPan = this.tool === 'pan' || this.space || event.button === 1;
    // Ctrl and click is a Mac's right click.
    const isOther = event.button === 2 || event.shiftKey || event.ctrlKey;
    this.press = { place, last: place, kind: isPan ? 'pan' : 'click', isOther, isTouch: event.pointerType === 'touch', points: [place] };
    if (this.press.isTouch && !isPan) this.press.timer = setTimeout(() => this.longPress(), LONG_PRESS);
    if (this.tool === 'paint' && !isPan) this.paint(event);
    event.preventDefault();
  }

  longPress() {
    if (this.press?.kind !== 'click') return;
    navigator.vibrate?.(15);
    this.press.isOther = true;
    this.finishClick();
  }

  moved(event) {
    const place = this.at(event);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, place);
    if (this.pinch) return this.pinchMove();
    const { press } = this;
    if (!press) return this.does.hover(...place);
    const [dx, dy] = [place[0] - press.last[0], place[1] - press.last[1]];
    if (press.kind === 'pan') this.does.move(dx, dy);
    else if (press.kind === 'stroke') this.paint(event);
    else if (press.kind === 'drag' || (press.kind === 'click' && Math.hypot(place[0] - press.place[0], place[1] - press.place[1]) > SLOP)) {
      clearTimeout(press.timer);
      press.kind = 'drag';
      this.does.drag(...press.place, ...place, false);
    }
    press.last = place;
  }

  paint(event) {
    this.press.kind = 'stroke';
    // All that the mouse went through since the last frame, for a smooth line.
    const steps = event.type === 'pointermove' ? event.getCoalescedEvents?.() ?? [event] : [];
    for (const step of steps.length ? steps : [event]) this.press.points.push(this.at(step));
    this.does.stroke(this.press.points, false);
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
    if (press.kind === 'drag') this.does.drag(...press.place, ...this.at(event), true);
    if (press.kind === 'stroke') this.does.stroke(press.points, true);
    this.press = null;
  }

  finishClick() {
    const { place, isOther, timer } = this.press;
    clearTimeout(timer);
    this.press = null;
    this.does.click(...place, isOther);
  }

  drop(event) {
    this.pointers.delete(event.pointerId);
    this.cancel();
  }

  // Whether there was anything under way.
  cancel() {
    const wasBusy = Boolean(this.press);
    clearTimeout(this.press?.timer);
    this.press = null;
    if (wasBusy) this.does.cancel();
    return wasBusy;
  }

  pinchStart() {
    this.cancel();
    this.pinch = this.fingers();
  }

  pinchMove() {
    if (this.pointers.size < 2) return;
    const [before, now] = [this.pinch, this.fingers()];
    this.does.zoom(now.distance / before.distance, now.x, now.y);
    this.does.move(now.x - before.x, now.y - before.y);
    this.pinch = now;
  }

  fingers() {
    const [[x0, y0], [x1, y1]] = this.pointers.values();
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, distance: Math.max(1, Math.hypot(x1 - x0, y1 - y0)) };
  }

  // Ctrl and wheel, which is also a touchpad's pinch, zooms; the wheel moves what is larger than the
  // stage, and else scrolls the page.
  wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const steps = event.deltaMode ? event.deltaY * 20 : event.deltaY;
      this.does.zoom(Math.exp(-steps * 0.004), ...this.at(event));
    } else if (this.view.isLarger) {
      event.preventDefault();
      const [dx, dy] = event.shiftKey ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
      this.does.move(-dx, -dy);
    }
  }

  keyDown(event) {
    this.canvas.parentElement.dataset.keys = '';
    if (event.code === 'Space' && !event.repeat) this.space = true;
    if (event.key === 'Escape' && this.cancel()) return event.preventDefault();
    if (this.does.key(event) || event.code === 'Space') event.preventDefault();
  }
}
