// A task that takes long, tracking or saving a video: its progress, and a way to stop it.

const UPDATE_EVERY = 120;

export class LongTask {
  constructor(tab) {
    Object.assign(this, { tab, running: null, follows: false });
    this.bar = tab.part('progress');
  }

  // Resolves to whether it finished. `running` is the message meanwhile, `finished(summary)` the one
  // after; `onStep` gets what the server returns for each frame.
  async run(path, body, { running, finished }, onStep = () => {}) {
    if (this.running) return false;
    const { tab } = this;
    const abort = (this.running = new AbortController());
    const progress = { done: 0, total: 0, started: performance.now(), updated: 0 };
    this.follows = true;
    tab.showMessage(`${running} …`, 'working');
    tab.refresh();
    try {
      for await (const step of tab.client.lines(path, body, abort.signal, path === 'track')) {
        if (step.total) Object.assign(progress, { total: step.total, started: performance.now() });
        else {
          progress.done += 1;
          onStep(step);
        }
        this.showProgress(running, progress);
      }
      const message = finished(summary(progress));
      await this.settle();
      tab.showMessage(message, 'pet');
      return true;
    } catch (error) {
      await this.settle();
      if (error.name === 'AbortError') tab.showMessage(`Stopped after ${progress.done} of ${progress.total} frames.`);
      // An expired clip was sent again by now, which has its own message.
      else if (error.status !== 410) tab.showMessage(error.message, 'error');
      return false;
    } finally {
      this.running = null;
      this.bar.style.removeProperty('--ps-done');
      tab.refresh();
    }
  }

  // Frames that are still loading would replace the last message, and only the server knows whether
  // the frame at hand was finished when the task was stopped.
  async settle() {
    await this.tab.frames.running;
    await this.tab.attempt(() => this.tab.frames.fetchPrediction(this.tab.store.frame));
  }

  stop() {
    this.running?.abort();
  }

  showProgress(message, progress) {
    const now = performance.now();
    if (now - progress.updated < UPDATE_EVERY) return;
    progress.updated = now;
    const { done, total, started } = progress;
    this.bar.style.setProperty('--ps-done', total ? done / total : 0);
    const left = done > 2 ? `, ${speed(progress)}, ${duration(((now - started) / done) * (total - done))} left` : '';
    this.tab.showMessage(`${message}: ${done} of ${total} frames${left}`, 'working');
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
