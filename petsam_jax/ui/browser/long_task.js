// Work that takes long, tracking and making a video: its progress, and a way to stop it.

const TELL_EVERY = 120;

export class LongWork {
  constructor(app) {
    Object.assign(this, { app, running: null, follows: false });
    this.bar = app.part('progress');
  }

  // Resolves to whether it came to its end; `words` are of it and of its end, `each` gets what is told of
  // a frame.
  async run(path, body, [words, end], each = () => {}) {
    if (this.running) return false;
    const { app } = this;
    const running = (this.running = new AbortController());
    const progress = { done: 0, total: 0, started: performance.now(), told: 0 };
    this.follows = true;
    app.tell(`${words} …`, 'working');
    app.refresh();
    try {
      for await (const told of app.client.lines(path, body, running.signal, path === 'track')) {
        if (told.total) Object.assign(progress, { total: told.total, started: performance.now() });
        else {
          progress.done += 1;
          each(told);
        }
        this.tell(words, progress);
      }
      const told = `${end}: ${summary(progress)}.`;
      await this.settle();
      app.tell(told, 'pet');
      return true;
    } catch (error) {
      await this.settle();
      if (error.name === 'AbortError') app.tell(`Stopped after ${progress.done} of ${progress.total} frames.`);
      // It was sent again by now, which is told.
      else if (error.status !== 410) app.tell(error.message, 'error');
      return false;
    } finally {
      this.running = null;
      this.bar.style.removeProperty('--ps-done');
      app.refresh();
    }
  }

  // Frames that are still to be shown would have their own words, and one that was under way when it was
  // stopped is known to the server alone.
  async settle() {
    await this.app.reel.running;
    await this.app.attempt(() => this.app.reel.learn(this.app.store.frame));
  }

  stop() {
    this.running?.abort();
  }

  tell(words, progress) {
    const now = performance.now();
    if (now - progress.told < TELL_EVERY) return;
    progress.told = now;
    const { done, total, started } = progress;
    this.bar.style.setProperty('--ps-done', total ? done / total : 0);
    const left = done > 2 ? `, ${duration(((now - started) / done) * (total - done))} left` : '';
    this.app.tell(`${words}: ${done} of ${total} frames${done > 2 ? `, ${speed(progress)}` : ''}${left}`, 'working');
  }
}

function speed({ done, started }) {
  const rate = (1000 * done) / Math.max(1, performance.now() - started);
  return `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} frames/s`;
}

const summary = (progress) => `${progress.done} frames in ${duration(performance.now() - progress.started)}, ${speed(progress)}`;

function duration(milliseconds) {
  const seconds = Math.ceil(milliseconds / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
