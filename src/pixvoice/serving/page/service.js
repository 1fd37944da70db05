// The HTTP service, asked by relative addresses: the page works behind any prefix, and asks nobody else.

import { text } from "./strings.js";

const TOKEN = "pixvoice-token"; // in the tab's own storage: gone with the tab

/** What the service answered with, in the sentence that it gave. */
export class Problem extends Error {}

export class Service {
  /** `askToken(why)` gives a promise of a token, or of null when the user has none. */
  constructor(askToken) {
    this.askToken = askToken;
    this.token = sessionStorage.getItem(TOKEN);
  }

  info() {
    return this.#call("v1/info").then((response) => response.json());
  }

  /** A photo -> the response whose body is a WAV that arrives while it is made. */
  describe(photo, length, signal) {
    return this.#send(`v1/describe?length=${length}`, { photo }, { Accept: "audio/wav" }, signal);
  }

  /** A photo -> the best description that there is, whole, with how sure the machine is. */
  async describeWell(photo, length, signal) {
    const path = `v1/describe?length=${length}`;
    const response = await this.#send(path, { photo }, { Accept: "application/json" }, signal);
    return response.json();
  }

  /** `{speech}` or `{photo}` -> what was heard, and the photos found. */
  async search(query, signal) {
    const response = await this.#send("v1/search", query, { Accept: "application/json" }, signal);
    return response.json();
  }

  /** A photo of the index, by the address that `search` gave. */
  async photo(address, signal) {
    const response = await this.#call(address.replace(/^\//, ""), { signal });
    return response.blob();
  }

  #send(path, files, headers, signal) {
    const body = new FormData();
    for (const [field, file] of Object.entries(files)) body.append(field, file, field); // its own name stays here
    return this.#call(path, { method: "POST", body, headers, signal });
  }

  async #call(path, options = {}) {
    let response = await this.#fetch(path, options);
    while (response.status === 401) {
      this.token = await this.askToken(await sentence(response));
      if (!this.token) throw new Problem(text("tokenCancelled"));
      response = await this.#fetch(path, options);
    }
    if (this.token) sessionStorage.setItem(TOKEN, this.token);
    if (!response.ok) throw new Problem(await sentence(response));
    return response;
  }

  async #fetch(path, options) {
    const headers = new Headers(options.headers);
    if (this.token) headers.set("Authorization", `Bearer ${this.token}`);
    try {
      return await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(text("unreachable"));
    }
  }
}

async function sentence(response) {
  const problem = await response.json().catch(() => ({}));
  return problem.detail || problem.title || text("failed", { status: response.status });
}
