// Files to take home: made by the server at full size from the same prompts.

const ENDINGS = { json: 'json' };

async function resultOf(app, kind) {
  app.sign('Making the file');
  try {
    return await app.client.result(app.state(), kind);
  } finally {
    app.sign(app.client.running && 'Computing');
  }
}

export async function saveResult(app, kind) {
  const blob = await resultOf(app, kind);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `${app.picture.name.replace(/\.[^.]*$/, '')}-${kind}.${ENDINGS[kind] ?? 'png'}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export async function copyResult(app, kind) {
  if (!navigator.clipboard?.write) throw new Error('This browser lets pages copy only over https or on localhost; save the file instead.');
  // The promise is handed over at once: some browsers want the copying to begin within the click.
  await navigator.clipboard.write([new ClipboardItem({ 'image/png': resultOf(app, kind) })]);
  app.tell('Copied.', 'pet');
}
