// Requests to the server. One request for masks runs at a time; meanwhile only the newest state is
// kept, and sent next. So no click is lost, and no older masks arrive after newer ones.

const MAX_ATTEMPTS = 10;

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const isTemporary = (error) => error.status === 503 || error.status === 0;

export class Client {
  // `on` has prediction(prediction, state), error(error, state), busy(isBusy), waiting(message), and
  // may have reopened().
  constructor(base, on) {
    Object.assign(this, { base, on, file: null, next: null, running: false });
  }

  post(path, body, signal) {
    const type = typeof body === 'string' ? 'application/json' : 'application/octet-stream';
    return this.fetch(path, { method: 'POST', body, signal, headers: { 'Content-Type': type } });
  }

  // Sends the file again if it has expired on the server.
  async get(path) {
    try {
      return await this.fetch(path);
    } catch (error) {
      if (error.status !== 410 || !this.file) throw error;
      await this.reopen();
      return this.fetch(path);
    }
  }

  async fetch(path, options) {
    let response;
    try {
      response = await fetch(this.base + path, options);
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ServerError('The server cannot be reached.', 0);
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    throw new ServerError(body.error || `The server returned status ${response.status}.`, response.status);
  }

  // Retries while the server is busy or unreachable.
  async withRetries(request, isStale = () => false) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await request();
      } catch (error) {
        if (!isTemporary(error) || attempt >= MAX_ATTEMPTS || isStale()) throw error;
        this.on.waiting(`${error.message} Retrying …`);
        await pause(Math.min(3000, 250 * attempt));
      }
    }
  }

  // Keeps the file, in case it expires on the server.
  async open(file, path = 'open') {
    const opened = await this.withRetries(async () => (await this.post(path, file)).json());
    Object.assign(this, { file, path });
    return opened;
  }

  async reopen(signal) {
    await this.post(this.path, this.file, signal);
    this.on.reopened?.();
  }

  // As `get`, for a request with a state.
  async postState(path, state, signal) {
    const body = JSON.stringify(state);
    try {
      return await this.post(path, body, signal);
    } catch (error) {
      if (error.status !== 410 || !this.file) throw error;
      await this.reopen(signal);
      return this.post(path, body, signal);
    }
  }

  segment(state) {
    this.next = state;
    this.stopHint();
    if (!this.running) this.run();
  }

  cancel() {
    this.next = null;
    this.stopHint();
  }

  async run() {
    this.running = true;
    this.on.busy(true);
    while (this.next) {
      const state = this.next;
      this.next = null;
      try {
        const request = async () => (await this.postState('segment', state)).json();
        const prediction = await this.withRetries(request, () => this.next);
        this.on.prediction(prediction, state);
      } catch (error) {
        if (!this.next) this.on.error(error, state);
      }
    }
    this.running = false;
    this.on.busy(false);
  }

  // The masks that a click would give; only while nothing else is running.
  async hint(state) {
    if (this.running) return null;
    this.stopHint();
    this.hinting = new AbortController();
    const { signal } = this.hinting;
    try {
      return await (await this.post('segment?hint=1', JSON.stringify(state), signal)).json();
    } catch {
      return null;
    }
  }

  stopHint() {
    this.hinting?.abort();
    this.hinting = null;
  }

  async export(request) {
    return this.withRetries(async () => (await this.postState('export', request)).blob());
  }

  // A long task's response, line by line. A task that needs earlier results (not `startsOver`) has lost
  // them if the file has expired, so the file is not sent again for it.
  async *lines(path, request, signal, startsOver) {
    const send = () => (startsOver ? this.postState(path, request, signal) : this.post(path, JSON.stringify(request), signal));
    const response = await this.withRetries(send);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (text + (value ?? '')).split('\n');
      text = lines.pop();
      for (const line of lines) {
        const step = JSON.parse(line);
        if (step.error) throw new ServerError(step.error, step.expired ? 410 : 500);
        yield step;
      }
      if (done) return;
    }
  }
}
