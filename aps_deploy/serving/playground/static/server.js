// The server's own routes: the repository index, what a model is, a picture prepared for it, and inference.

const HEADER_LENGTH = "Inference-Header-Content-Length";

/** A request that was not answered: `message` is one sentence, `status` the HTTP status, 0 where there was none. */
export class ServerError extends Error {
  constructor(message, status, retryAfterSeconds = null) {
    super(message);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The server that sent this page. The token stays in this object: it is written nowhere. */
export class Server {
  token = "";

  /** Returns every model that is served or should be: name, version, state, and the reason why it is not ready. */
  async index() {
    return (await this.#ask("POST", "v2/repository/index")).json();
  }

  /** Returns what a model's file says of itself. */
  async describe(model) {
    return (await this.#ask("GET", `v1/models/${path(model)}`)).json();
  }

  /** Returns the input tensor that the model makes of an encoded picture. */
  async prepare(model, picture, signal) {
    const response = await this.#ask("POST", `v1/models/${path(model)}/prepare`, picture, {}, signal);
    return (await unpacked(response, "inputs"))[0];
  }

  /** Returns a model's output of that name for one input tensor. */
  async infer(model, tensor, output, signal) {
    const { name, datatype, shape, bytes } = tensor;
    const header = new TextEncoder().encode(
      JSON.stringify({
        inputs: [{ name, datatype, shape, parameters: { binary_data_size: bytes.length } }],
        outputs: [{ name: output, parameters: { binary_data: true } }],
      }),
    );
    const headers = { [HEADER_LENGTH]: String(header.length) };
    const body = new Blob([header, bytes]);
    const response = await this.#ask("POST", `v2/models/${path(model)}/infer`, body, headers, signal);
    return (await unpacked(response, "outputs"))[0];
  }

  async #ask(method, address, body, headers = {}, signal = undefined) {
    const authorization = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    let response;
    try {
      response = await fetch(address, {
        method,
        body,
        signal,
        headers: { ...headers, ...authorization },
        cache: "no-store",
        credentials: "omit",
      });
    } catch (error) {
      if (error.name === "AbortError") {
        throw error;
      }
      throw new ServerError("The server does not answer; it may have stopped.", 0);
    }
    if (!response.ok) {
      const wait = Number(response.headers.get("Retry-After"));
      throw new ServerError(await reason(response), response.status, wait || null);
    }
    return response;
  }
}

function path({ name, version }) {
  return `${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`;
}

async function reason(response) {
  try {
    const { error } = await response.json();
    return typeof error === "string" ? error : `the server answered ${response.status}.`;
  } catch {
    return `the server answered ${response.status}.`;
  }
}

/** Returns the tensors of a body of JSON with raw tensors behind it. */
async function unpacked(response, kind) {
  const body = new Uint8Array(await response.arrayBuffer());
  const headerLength = Number(response.headers.get(HEADER_LENGTH));
  const described = JSON.parse(new TextDecoder().decode(body.subarray(0, headerLength)))[kind];
  let start = headerLength;
  return described.map(({ name, datatype, shape, parameters }) => {
    const bytes = body.subarray(start, start + parameters.binary_data_size);
    start += parameters.binary_data_size;
    return { name, datatype, shape, bytes };
  });
}
