// Talking to the server. One question for masks is under way at a time; meanwhile only the newest
// state is kept, and asked next. So no click is lost, and no old answer comes after a newer one.

const PATIENCE = 10;

export class ServerError extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const passing = (error) => error.status === 503 || error.status === 0;

export class Client {
  // `on` has answer(answer, state), error(error), busy(isBusy), waiting(words), and may have sentAgain().
  constructor(base, on) {
    Object.assign(this, { base, on, file: null, wanted: null, running: false });
  }

  post(path, body, signal) {
    const type = typeof body === 'string' ? 'application/json' : 'application/octet-stream';
    return this.fetch(path, { method: 'POST', body, signal, headers: { 'Content-Type': type } });
  }

  // A file that the server has dropped is sent again.
  async get(path) {
    try {
      return await this.fetch(path);
    } catch (error) {
      if (error.status !== 410 || !this.file) throw error;
      await this.sendAgain();
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
    const said = await response.json().catch(() => ({}));
    throw new ServerError(said.error || `The server answered ${response.status}.`, response.status);
  }

  // Again and again while the server is only busy or away.
  async patiently(ask, isStale = () => false) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await ask();
      } catch (error) {
        if (!passing(error) || attempt >= PATIENCE || isStale()) throw error;
        this.on.waiting(`${error.message} Trying again …`);
        await pause(Math.min(3000, 250 * attempt));
      }
    }
  }

  // The file stays here, in case the server has to ask for it again.
  async open(file, path = 'open') {
    const opened = await this.patiently(async () => (await this.post(path, file)).json());
    Object.assign(this, { file, path });
    return opened;
  }

  async sendAgain(signal) {
    await this.post(this.path, this.file, signal);
    this.on.sentAgain?.();
  }

  // A question about a file that the server has dropped: send it again, and ask again.
  async asking(path, state, signal) {
    const body = JSON.stringify(state);
    try {
      return await this.post(path, body, signal);
    } catch (error) {
      if (error.status !== 410 || !this.file) throw error;
      await this.sendAgain(signal);
      return this.post(path, body, signal);
    }
  }

  ask(state) {
    this.wanted = state;
    this.stopHint();
    if (!this.running) this.run();
  }

  forget() {
    this.wanted = null;
    this.stopHint();
  }

  async run() {
    this.running = true;
    this.on.busy(true);
    while (this.wanted) {
      const state = this.wanted;
      this.wanted = null;
      try {
        const answer = await this.patiently(async () => (await this.asking('answer', state)).json(), () => this.wanted);
        this.on.answer(answer, state);
      } catch (error) {
        if (!this.wanted) this.on.error(error, state);
      }
    }
    this.running = false;
    this.on.busy(false);
  }

  // What a click would give: asked only while there is nothing else to do.
  async hint(state) {
    if (this.running) return null;
    this.stopHint();
    this.hinting = new AbortController();
    const { signal } = this.hinting;
    try {
      return await (await this.post('answer?hint=1', JSON.stringify(state), signal)).json();
    } catch {
      return null;
    }
  }

  stopHint() {
    this.hinting?.abort();
    this.hinting = null;
  }

  async result(wanted) {
    return this.patiently(async () => (await this.asking('result', wanted)).blob());
  }

  // Long work: what it tells, line by line. Unless it `startsOver`, it builds on what was done to the file
  // before, which is gone where the server has dropped it: then there is no use in sending it again.
  async *lines(path, wanted, signal, startsOver) {
    const ask = () => (startsOver ? this.asking(path, wanted, signal) : this.post(path, JSON.stringify(wanted), signal));
    const response = await this.patiently(ask);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      const whole = (text + (value ?? '')).split('\n');
      text = whole.pop();
      for (const line of whole) {
        const told = JSON.parse(line);
        if (told.error) throw new ServerError(told.error, told.gone ? 410 : 500);
        yield told;
      }
      if (done) return;
    }
  }
}
