// Files come in: chosen, dropped or pasted, as long as their tab is the one that is looked at.

// `kind` is how the types of files begin that may be pasted.
export function takeFiles(app, kind, open) {
  const file = app.part('file');
  file.onchange = () => {
    if (file.files[0]) open(file.files[0]);
    file.value = '';
  };
  // Entering a part of the page leaves the one around it: counted, it is seen when all is left.
  let depth = 0;
  const over = (change) => (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes('Files')) return;
    event.preventDefault();
    depth = Math.max(0, depth + change);
    app.part('drop').hidden = depth === 0;
  };
  app.root.addEventListener('dragenter', over(1));
  app.root.addEventListener('dragover', over(0));
  app.root.addEventListener('dragleave', over(-1));
  app.root.addEventListener('drop', (event) => {
    over(-depth)(event);
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith(kind));
    if (pasted && app.isShown) open(pasted);
  });
}
