// @ts-check
/** Where people give their token. */
import { logIn } from "./api.js";
import { html, useState } from "./vendor/preact.js";

/** @param {{ why: string, onLoggedIn: (caller: any) => void }} props `why`: what the scheduler said, if it was asked with a token. */
export function Login({ why, onLoggedIn }) {
  const [error, setError] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    setBusy(true);
    try {
      onLoggedIn(await logIn(String(new FormData(form).get("token")).trim()));
    } catch (cause) {
      setError(cause instanceof Error ? cause.message : String(cause));
      setBusy(false);
    }
  };
  return html`<main class="login">
    <form onSubmit=${submit}>
      <h1>Trainyard</h1>
      ${why && html`<p class="muted" role="status">${why}</p>`}
      <input type="text" name="username" autocomplete="username" value="token" hidden />
      <label for="token">Token</label>
      <input id="token" name="token" type="password" autocomplete="current-password" required autofocus
        aria-describedby="hint" aria-invalid=${error ? "true" : undefined} />
      <p id="hint" class="muted">The one that <code>yard login</code> takes. An admin makes you one.</p>
      ${error && html`<p class="problem" role="alert">${error}</p>`}
      <button type="submit" class="main" disabled=${isBusy}>Log in</button>
    </form>
  </main>`;
}
