// @ts-check
/** Asks before something is lost. */

/**
 * Whether somebody wants it so, in a dialog over the page.
 * @param {string} question @param {string} action What the button says that does it. @returns {Promise<boolean>}
 */
export function confirm(question, action) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  text.textContent = question;
  text.id = "question";
  dialog.setAttribute("aria-labelledby", text.id);
  const choices = document.createElement("form");
  choices.method = "dialog";
  for (const [value, name, kind] of [["", "Back", ""], ["yes", action, "main"]]) {
    const button = document.createElement("button");
    [button.value, button.textContent, button.className] = [value, name, kind];
    choices.append(button);
  }
  dialog.append(text, choices);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}
