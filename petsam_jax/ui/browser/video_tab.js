// The video tab: prompts on any frame, masks on all of them. As in `image_tab.js`, but tracked masks are
// the server's: the page keeps a frame's prediction until the prompts change.

import { addExamples, exampleFile } from './examples.js';
import { download, stemOf } from './export.js';
import { acceptFiles, openError } from './file_input.js';
import { FrameLoader } from './frame_loader.js';
import { LongTask } from './long_task.js';
import { defaults } from './panel.js';
import { Player } from './player.js';
import { Tab } from './tab.js';
import { Timeline } from './timeline.js';
import { VideoStage, stepOf } from './video_stage.js';
import { VideoStore } from './video_store.js';

const FIRST_STEP = 'Click on the animal on any frame, or drag a box around it. Then track it.';
const EXAMPLES = [['kitten.mp4', 'A kitten, filmed by a moving camera', 'Made from the photo by Loliloli, public domain', 'kitten.webp']];
const MEGA = 1e6;

export function start(element, base) {
  const tab = new VideoTab(element.querySelector('[data-root]'), base);
  element.petsam = tab;
  return tab;
}

// Nobody can guess it, and the clip can be sent again under it.
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

class VideoTab extends Tab {
  constructor(root, base) {
    const { opacity, fill_holes, remove_islands, soft, patch, pet_threshold } = defaults();
    super(root, base, {
      settings: { opacity, fill_holes, remove_islands, soft, patch, pet_threshold },
      Store: VideoStore, Stage: VideoStage, api: 'video/', isVideo: true,
      texts: { where: 'frame', empty: 'no mask on this frame' },
    });
    Object.assign(this, { clip: null, version: 0 });
    this.player = new Player(this);
    this.timeline = new Timeline(this.part, (frame) => this.player.scrub(frame));
    this.frames = new FrameLoader(this);
    this.task = new LongTask(this);
    this.examples = addExamples(this.part('examples'), base, EXAMPLES, (name) => this.openExample(name));
    acceptFiles(this, 'video/', (file) => this.open(file));
    // The server need not keep a clip that nobody looks at; after going back, the page sends it again.
    window.addEventListener('pagehide', () => this.clip && navigator.sendBeacon(`${base}video/close?clip=${this.clip.id}`));
    this.refresh();
    this.openExample(this.examples.first);
  }

  // Clips

  async openExample(name) {
    const file = await exampleFile(this, name);
    if (file) await this.open(file);
  }

  // The newest clip wins over others that are still opening.
  async open(file) {
    const opening = (this.opening = {});
    this.task.stop();
    this.client.cancel();
    this.showBusy('Reading the video');
    this.showMessage('');
    try {
      const limit = Number(this.root.dataset.maxBytes);
      if (file.size > limit) throw new Error(`This file has ${Math.ceil(file.size / MEGA)} MB; the limit is ${limit / MEGA} MB.`);
      const id = newId();
      const opened = await this.client.open(file, `open?clip=${id}`);
      if (this.opening !== opening) return;
      this.clipOpened({ ...opened, id, name: file.name || 'video' });
      this.examples.mark(file.name);
      await this.frames.show(0);
    } catch (error) {
      if (this.opening === opening) this.showMessage(openError(file, error), 'error');
    } finally {
      if (this.opening === opening) {
        this.opening = null;
        this.showBusy(this.client.running && 'Computing');
      }
    }
  }

  clipOpened(clip) {
    this.clip = clip;
    this.player.playing = false;
    this.resetTo(clip);
    this.painter.setImage(null);
    this.frames.open(clip);
    this.timeline.reset(clip.count);
    this.timeline.fps = clip.fps;
    this.showMessage(FIRST_STEP);
  }

  // Frames

  showFrame(frame, image, prediction) {
    const isOther = frame !== this.store.frame;
    if (isOther) this.stage.frameChanged();
    this.store.frame = frame;
    this.painter.setImage(image);
    this.prediction = prediction;
    if (prediction) this.painter.setMask(prediction, this.store.shown);
    if (!this.task.running && isOther) this.showObjectMessage(prediction?.objects[this.store.document.active]);
    if (this.frames.next == null) this.timeline.showFrame(frame);
    this.refresh();
  }

  // Prompts and predictions

  changed() {
    if (!this.clip) return;
    if (this.store.isEmpty) {
      this.client.cancel();
      this.prediction = null;
      this.frames.forget();
      this.timeline.states.fill(0);
      this.painter.clearMask();
      this.showMessage(FIRST_STEP);
    } else this.client.segment(this.state());
    // Undo returns to the frame of the change.
    if (this.store.frame !== Number(this.timeline.slider.value)) this.player.go(this.store.frame);
    this.refresh();
  }

  state() {
    return this.store.state(this.clip.id, this.serverSettings());
  }

  // Keeps a frame's prediction for the next time that it is shown.
  storePrediction(prediction) {
    const { frames, timeline } = this;
    if (prediction.version !== this.version) frames.forget();
    this.version = prediction.version;
    frames.predictions.set(prediction.frame, prediction);
    if (prediction.timeline) timeline.setStates(prediction.timeline);
    timeline.update(this.store.document.objects);
  }

  predicted(prediction, state) {
    if (state.clip !== this.clip?.id || this.store.isEmpty) return;
    this.storePrediction(prediction);
    if (prediction.frame !== this.store.frame) {
      this.frames.show(this.store.frame);
      return;
    }
    this.prediction = prediction;
    this.painter.setMask(prediction, this.store.shown);
    if (this.lossMessage) this.showMessage(this.lossMessage, 'error');
    else if (!this.task.running) this.showObjectMessage(prediction.objects[state.active]);
    this.lossMessage = null;
    this.refresh();
  }

  // The clip had expired and is open again, but without prompts and tracked masks.
  reopened() {
    if (this.opening || this.store.isEmpty) return;
    const wasTracked = this.timeline.states.some(Boolean);
    this.frames.forget();
    this.timeline.states.fill(0);
    this.client.segment(this.state());
    if (wasTracked) this.lossMessage = 'The video expired and was reloaded. Please track again.';
  }

  failed(error, state) {
    if (state.clip === this.clip?.id) this.showMessage(error.message, 'error', true);
  }

  // Long tasks

  track() {
    this.player.playing = false;
    const body = { state: this.state(), both: this.part('both').checked };
    const messages = { running: 'Tracking', finished: (summary) => `Tracked ${summary}.` };
    return this.task.run('track', body, messages, (prediction) => {
      this.storePrediction(prediction);
      this.timeline.states[prediction.frame] = 2;
      if (this.task.follows) this.player.go(prediction.frame);
      else if (prediction.frame === this.store.frame) this.frames.show(prediction.frame);
    });
  }

  async save(format) {
    const { clip, painter, settings } = this;
    const body = { state: this.state(), kind: painter.show, format, opacity: settings.opacity, soft: settings.soft };
    const stem = `${stemOf(clip.name)}-${painter.show}`;
    const messages = { running: 'Saving', finished: () => `Saved ${stem}.${format}.` };
    const isDone = await this.task.run('export', body, messages);
    if (isDone) download(`${this.base}video/download?clip=${clip.id}&name=${encodeURIComponent(stem)}`, `${stem}.${format}`);
  }

  // Buttons and keys

  choice(name, value) {
    super.choice(name, value);
    this.refresh();
  }

  set(name, value) {
    // A setting applies to all frames.
    this.frames.forget();
    super.set(name, value);
  }

  refresh() {
    if (!this.task) return;
    super.refresh();
    const { running } = this.task;
    this.timeline.update(this.store.document.objects);
    this.button('track').hidden = Boolean(running);
    this.button('stop').hidden = !running;
    this.button('save-mp4').title = this.isTransparent ? 'An mp4 cannot be transparent; use GIF or WebP' : 'The smallest file';
    this.button('play').setAttribute('aria-pressed', this.player.playing);
  }

  get isTransparent() {
    return this.painter.show === 'cutout';
  }

  enabled() {
    const isReady = this.clip && !this.task.running && !this.store.isEmpty;
    const active = this.store.document.objects[this.store.document.active];
    return {
      ...super.enabled(), play: this.clip, track: isReady,
      'save-mp4': isReady && !this.isTransparent, 'save-gif': isReady, 'save-webp': isReady,
      'clear-frame': active && this.store.promptedFrames(active).includes(this.store.frame),
    };
  }

  actions() {
    return {
      ...super.actions(),
      play: () => this.player.play(),
      track: () => this.track(),
      stop: () => this.task.stop(),
      'save-mp4': () => this.save('mp4'),
      'save-gif': () => this.save('gif'),
      'save-webp': () => this.save('webp'),
      'clear-frame': () => this.store.clearFrame(),
    };
  }

  globalKey(event) {
    const isField = event.target.closest?.('input, textarea, select');
    const isPlain = !(event.ctrlKey || event.metaKey || event.altKey);
    const step = stepOf(event);
    if (isPlain && step && !isField) this.player.step(step);
    else if (isPlain && !isField && event.key.toLowerCase() === 'k') this.player.play();
    else if (isPlain && !isField && event.key.toLowerCase() === 't' && this.enabled().track) this.attempt(() => this.track());
    else return super.globalKey(event);
    return event.preventDefault();
  }
}
