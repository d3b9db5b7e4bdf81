// The video tab: prompts on any frame, masks on all of them. As in `image_tab.js`, but what was tracked is
// the server's: the page keeps what it was told of a frame until the prompts change.

import { exampleFile, examples } from './examples.js';
import { takeFiles } from './file_input.js';
import { LongWork } from './long_task.js';
import { defaults } from './panel.js';
import { Reel } from './frame_loader.js';
import { download, stemOf } from './export.js';
import { Timeline } from './timeline.js';
import { VideoStage, stepOf } from './video_stage.js';
import { VideoStore } from './video_store.js';
import { Workbench } from './tab.js';

const WHAT_TO_DO = 'Click on the animal on any frame, or drag a box round it; then track it.';
const EXAMPLES = [['kitten.mp4', 'A kitten, and a camera that moves', 'Made of the photo by Loliloli, public domain', 'kitten.webp']];
const MEGA = 1e6;

export function start(element, base) {
  const app = new VideoApp(element.querySelector('[data-root]'), base);
  element.petsam = app;
  return app;
}

// Nobody guesses it, and the same clip can be sent again under it.
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

class VideoApp extends Workbench {
  constructor(root, base) {
    const { opacity, fill_holes, remove_islands, soft, patch, pet_threshold } = defaults();
    super(root, base, { values: { opacity, fill_holes, remove_islands, soft, patch, pet_threshold }, Store: VideoStore, Stage: VideoStage, asks: 'clip/' });
    Object.assign(this, { clip: null, version: 0, playing: false });
    this.panel.nothing = 'not here';
    this.timeline = new Timeline(this.part, { scrub: (frame) => this.scrub(frame) });
    this.reel = new Reel(this);
    this.work = new LongWork(this);
    this.examples = examples(this.part('examples'), base, EXAMPLES, (name) => this.openExample(name));
    takeFiles(this, 'video/', (file) => this.open(file));
    // The server need not keep what nobody looks at; who comes back has the file still.
    window.addEventListener('pagehide', () => this.clip && navigator.sendBeacon(`${base}clip/close?clip=${this.clip.id}`));
    this.refresh();
    this.openExample(this.examples.first);
  }

  // Clips

  async openExample(name) {
    const file = await exampleFile(this, name);
    if (file) await this.open(file);
  }

  // The newest clip wins over others that are still on their way.
  async open(file) {
    const opening = (this.opening = {});
    const most = Number(this.root.dataset.most);
    this.work.stop();
    this.client.forget();
    this.sign('Reading the clip');
    this.tell('');
    try {
      if (file.size > most) throw new Error(`This file has ${Math.ceil(file.size / MEGA)} MB; at most ${most / MEGA} MB are taken.`);
      const id = newId();
      const opened = await this.client.open(file, `open?clip=${id}`);
      if (this.opening !== opening) return;
      this.clip = { ...opened, id, name: file.name || 'clip' };
      this.startClip();
      this.examples.mark(file.name);
      await this.reel.show(0);
    } catch (error) {
      if (this.opening === opening) this.tell(error.message, 'error');
    } finally {
      if (this.opening === opening) {
        this.opening = null;
        this.sign(this.client.running && 'Computing');
      }
    }
  }

  startClip() {
    this.playing = false;
    this.sizeUp(this.clip);
    this.painter.setImage(null);
    this.reel.open(this.clip);
    this.timeline.reset(this.clip.count);
    this.timeline.fps = this.clip.fps;
    this.tell(WHAT_TO_DO);
  }

  // Frames

  // A frame with what is known of it, once it is there.
  put(frame, image, answer) {
    const isOther = frame !== this.store.frame;
    if (isOther) this.stage.leaveFrame();
    this.store.frame = frame;
    this.painter.setImage(image);
    this.answer = answer;
    if (answer) this.painter.setMask(answer, this.store.shown);
    if (!this.work.running && isOther) this.tellAbout(answer?.objects[this.store.document.active]);
    if (this.reel.wanted == null) this.timeline.at(frame);
    this.refresh();
  }

  // What the visitor does himself ends what runs by itself.
  scrub(frame) {
    this.playing = false;
    this.work.follows = false;
    this.go(frame);
  }

  go(frame) {
    if (!this.clip) return null;
    const within = Math.min(Math.max(frame, 0), this.clip.count - 1);
    this.timeline.at(within);
    return this.reel.show(within);
  }

  step(by) {
    this.scrub(Number(this.timeline.slider.value) + by);
  }

  async play() {
    this.playing = !this.playing;
    this.refresh();
    const { clip } = this;
    while (this.playing && clip === this.clip) {
      const started = performance.now();
      const next = this.store.frame + 1;
      await this.go(next < clip.count ? next : 0);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, 1000 / clip.fps - (performance.now() - started))));
    }
  }

  // What was said, and what comes of it

  changed() {
    if (!this.clip) return;
    if (this.store.isEmpty) {
      this.client.forget();
      this.answer = null;
      this.reel.forget();
      this.timeline.line.fill(0);
      this.painter.clearMask();
      this.tell(WHAT_TO_DO);
    } else this.client.ask(this.state());
    // Undoing leads to where it was done.
    if (this.store.frame !== Number(this.timeline.slider.value)) this.go(this.store.frame);
    this.refresh();
  }

  state() {
    return this.store.state(this.clip.id, this.settings(this.values));
  }

  // What the server told of a frame, for the next time that it is shown.
  heard(answer) {
    const { reel, timeline } = this;
    if (answer.version !== this.version) reel.forget();
    this.version = answer.version;
    reel.answers.set(answer.frame, answer);
    if (answer.line) timeline.setLine(answer.line);
    timeline.update(this.store.document.objects);
  }

  answered(answer, state) {
    if (state.clip !== this.clip?.id || this.store.isEmpty) return;
    this.heard(answer);
    if (answer.frame !== this.store.frame) {
      this.reel.show(this.store.frame);
      return;
    }
    this.answer = answer;
    this.painter.setMask(answer, this.store.shown);
    if (this.lost) this.tell(this.lost, 'error');
    else if (!this.work.running) this.tellAbout(answer.objects[state.active]);
    this.lost = null;
    this.refresh();
  }

  // The server had dropped the clip, and has it again: but not what was said, and nothing tracked.
  sentAgain() {
    if (this.opening || this.store.isEmpty) return;
    const hadTracked = this.timeline.line.some(Boolean);
    this.reel.forget();
    this.timeline.line.fill(0);
    this.client.ask(this.state());
    if (hadTracked) this.lost = 'The server had let go of this clip and of what was tracked. It is open again: track it once more.';
  }

  failed(error, state) {
    if (state.clip === this.clip?.id) this.tell(error.message, 'error', true);
  }

  // Long work

  track() {
    this.playing = false;
    const body = { state: this.state(), both: this.part('both').checked };
    return this.work.run('track', body, ['Tracking', 'Tracked'], (told) => {
      this.heard(told);
      this.timeline.line[told.frame] = 2;
      if (this.work.follows) this.go(told.frame);
      else if (told.frame === this.store.frame) this.reel.show(told.frame);
    });
  }

  async save(format) {
    const { clip, painter, values } = this;
    const body = { state: this.state(), kind: painter.show, format, opacity: values.opacity, soft: values.soft };
    const isDone = await this.work.run('save', body, ['Making the video', 'The video is made']);
    const name = `${stemOf(clip.name)}-${painter.show}`;
    if (isDone) download(`${this.base}clip/film?clip=${clip.id}&name=${encodeURIComponent(name)}`, `${name}.${format}`);
  }

  // Buttons and keys

  choice(name, value) {
    super.choice(name, value);
    this.refresh();
  }

  set(name, value) {
    // Settings are about all frames.
    this.reel.forget();
    super.set(name, value);
  }

  refresh() {
    if (!this.work) return;
    super.refresh();
    const { running } = this.work;
    this.timeline.update(this.store.document.objects);
    this.root.querySelector('[data-do=track]').hidden = Boolean(running);
    this.root.querySelector('[data-do=stop]').hidden = !running;
    this.root.querySelector('[data-do=save-mp4]').title = this.isClear ? 'An mp4 cannot be transparent; take GIF or WebP' : 'Smallest';
    this.root.querySelector('[data-do=play]').setAttribute('aria-pressed', this.playing);
  }

  get isClear() {
    return this.painter.show === 'cutout';
  }

  can() {
    const isReady = this.clip && !this.work.running && !this.store.isEmpty;
    return {
      ...super.can(), play: this.clip, track: isReady,
      'save-mp4': isReady && !this.isClear, 'save-gif': isReady, 'save-webp': isReady,
      'clear-frame': this.store.document.objects.length && this.store.promptsOf(this.store.document.objects[this.store.document.active]).includes(this.store.frame),
    };
  }

  actions() {
    return {
      ...super.actions(),
      play: () => this.play(),
      track: () => this.track(),
      stop: () => this.work.stop(),
      'save-mp4': () => this.save('mp4'),
      'save-gif': () => this.save('gif'),
      'save-webp': () => this.save('webp'),
      'clear-frame': () => this.store.clearFrame(),
    };
  }

  anywhere(event) {
    const isField = event.target.closest?.('input, textarea, select');
    const isPlain = !(event.ctrlKey || event.metaKey || event.altKey);
    const step = stepOf(event);
    if (isPlain && step && !isField) this.step(step);
    else if (isPlain && !isField && event.key.toLowerCase() === 'k') this.play();
    else if (isPlain && !isField && event.key.toLowerCase() === 't' && this.can().track) this.attempt(() => this.track());
    else return super.anywhere(event);
    return event.preventDefault();
  }
}
