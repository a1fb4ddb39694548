// Questions to the server: one of a kind at a time, the newest wish next. Answers about a run that has left the screen are dropped.
function asker(eventName, runOnScreen, take) {
  const answerName = eventName.replace("want_", "sr-");
  let flying = null, wish = null, number = Math.floor(Math.random() * 1e9);
  function ask(question) {
    if (flying) { wish = JSON.stringify(question) === JSON.stringify(flying) ? null : question; return; }
    flying = question;
    number += 1;
    trigger(eventName, { ...question, number });
  }
  window.addEventListener(answerName, function hear(event) {
    if (!element.isConnected) { window.removeEventListener(answerName, hear); return; }
    if (event.detail && event.detail.number !== number) return;
    const asked = flying, next = wish;
    flying = wish = null;
    if (!asked) return;
    const answer = event.detail || { run: asked.run, problem: "the server did not answer", again: true };
    if (asked.run === runOnScreen() && answer.run === asked.run) take(answer, asked);
    if (next && next.run === runOnScreen()) ask(next);
  });
  return ask;
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1) + (words.endsWith(".") ? "" : ".");

