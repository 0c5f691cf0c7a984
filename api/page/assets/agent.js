// The agent's HTTP API: requests, the token, and how errors are told.

const tokenKey = 'g2g-agent.token';

/** Token is kept in the tab only, and never in an address. */
export class Token {
  #value = '';

  constructor() {
    try {
      this.#value = sessionStorage.getItem(tokenKey) ?? '';
    } catch {
      // Storage is switched off: the token lives as long as the page.
    }
  }

  get value() {
    return this.#value;
  }

  set value(text) {
    this.#value = text;
    try {
      if (text) sessionStorage.setItem(tokenKey, text);
      else sessionStorage.removeItem(tokenKey);
    } catch {
      // As above.
    }
  }
}

/** Refusal is an answer of the agent that is not a success. */
export class Refusal extends Error {
  constructor(status, body) {
    super(explain(status, body));
    this.status = status;
    this.body = body;
  }

  get needsToken() {
    return this.status === 401 || this.status === 403;
  }
}

/** explain puts a problem (RFC 9457) into one line. */
function explain(status, body) {
  const parts = [];
  if (typeof body?.detail === 'string' && body.detail) parts.push(body.detail);
  else if (typeof body?.title === 'string' && body.title) parts.push(body.title);
  else parts.push(`the agent answered with status ${status}`);
  for (const error of Array.isArray(body?.errors) ? body.errors : []) {
    if (typeof error?.message !== 'string' || parts[0].includes(error.message)) continue;
    parts.push(error.location ? `${String(error.location).replace(/^body\./, '')}: ${error.message}` : error.message);
  }
  return parts.join('; ');
}

/** randomKey is unique to a command. crypto.randomUUID is there only on HTTPS and this machine. */
export function randomKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}

const readTimeoutMs = 5000;
const commandTimeoutMs = 30000;
const tries = 3;

/** Agent speaks to the agent that the page came from. */
export class Agent {
  #token;
  // Where reading is free, the token goes only with commands: a wrong one must
  // not blind the page.
  #readNeedsToken = false;

  constructor(token) {
    this.#token = token;
  }

  /** get reads an address, such as "v1/info". */
  async get(path, timeoutMs = readTimeoutMs) {
    for (;;) {
      const headers = this.#readNeedsToken && this.#token.value ? this.#authorization() : {};
      const response = await fetch(address(path), { headers, cache: 'no-store', signal: AbortSignal.timeout(timeoutMs) });
      if (response.ok) return response.json();
      const refusal = new Refusal(response.status, await problemOf(response));
      if (!refusal.needsToken || this.#readNeedsToken) throw refusal;
      this.#readNeedsToken = true;
      if (!this.#token.value) throw refusal;
    }
  }

  /** post sends a command. If the answer is lost on the way it is sent again under the same key, which has no second effect. */
  async post(path, body) {
    const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': randomKey() };
    if (this.#token.value) Object.assign(headers, this.#authorization());
    for (let left = tries; ; left--) {
      let response;
      try {
        response = await fetch(address(path), {
          method: 'POST', headers, body: JSON.stringify(body), cache: 'no-store', signal: AbortSignal.timeout(commandTimeoutMs),
        });
      } catch (error) {
        if (error.name !== 'TypeError' || left <= 1) throw new Error('the agent does not answer; whether the command took effect is not known', { cause: error });
        await new Promise((resolve) => { setTimeout(resolve, 300); });
        continue;
      }
      if (!response.ok) throw new Refusal(response.status, await problemOf(response));
      return response.json();
    }
  }

  /** socket opens a WebSocket. Browsers let no header be set on one: the token is a sub-protocol. */
  socket(path) {
    const url = new URL(address(path));
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    if (!this.#readNeedsToken || !this.#token.value) return new WebSocket(url);
    return new WebSocket(url, ['g2g-agent.v1', `g2g-agent.bearer.${base64URL(this.#token.value)}`]);
  }

  #authorization() {
    return { Authorization: `Bearer ${this.#token.value}` };
  }
}

function address(path) {
  const page = new URL(location.href);
  page.search = '';
  page.hash = '';
  return new URL(path, page).href;
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

function base64URL(text) {
  const binary = Array.from(new TextEncoder().encode(text), (b) => String.fromCharCode(b)).join('');
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}
