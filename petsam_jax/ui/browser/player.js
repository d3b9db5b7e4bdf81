// Moves through a clip's frames: by scrubbing, by steps, and by playing it.

export class Player {
  constructor(tab) {
    Object.assign(this, { tab, playing: false });
  }

  // The visitor's own steps end automatic ones.
  scrub(frame) {
    this.playing = false;
    this.tab.task.follows = false;
    this.go(frame);
  }

  go(frame) {
    const { clip, timeline, frames } = this.tab;
    if (!clip) return null;
    const within = Math.min(Math.max(frame, 0), clip.count - 1);
    timeline.showFrame(within);
    return frames.show(within);
  }

  step(by) {
    this.scrub(Number(this.tab.timeline.slider.value) + by);
  }

  async play() {
    this.playing = !this.playing;
    this.tab.refresh();
    const { clip } = this.tab;
    while (this.playing && clip === this.tab.clip) {
      const started = performance.now();
      const next = this.tab.store.frame + 1;
      await this.go(next < clip.count ? next : 0);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, 1000 / clip.fps - (performance.now() - started))));
    }
  }
}
