// @ts-check
/** Asks before something is lost, or for a number. */

/**
 * Whether somebody wants it so, in a dialog over the page.
 * @param {string} question @param {string} action What the button says that does it. @returns {Promise<boolean>}
 */
export async function confirm(question, action) {
  return (await ask(question, action, [])) === "yes";
}

/**
 * A whole number within bounds; null where somebody would rather not.
 * @param {string} question @param {string} action @param {number} value @param {[number, number]} bounds @returns {Promise<number | null>}
 */
export async function askNumber(question, action, value, [least, most]) {
  const input = document.createElement("input");
  Object.assign(input, { type: "number", required: true, value: String(value), min: String(least), max: String(most) });
  input.setAttribute("aria-labelledby", "question");
  return (await ask(question, action, [input])) === "yes" ? Number(input.value) : null;
}

/** Which button was chosen. @param {string} question @param {string} action @param {HTMLElement[]} fields @returns {Promise<string>} */
function ask(question, action, fields) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  text.textContent = question;
  text.id = "question";
  dialog.setAttribute("aria-labelledby", text.id);
  const choices = document.createElement("form");
  choices.method = "dialog";
  choices.append(...fields);
  for (const [value, name, kind] of [["", "Back", ""], ["yes", action, "main"]]) {
    const button = document.createElement("button");
    [button.value, button.textContent, button.className, button.formNoValidate] = [value, name, kind, !value];
    choices.append(button);
  }
  dialog.append(text, choices);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    dialog.showModal();
  });
}
