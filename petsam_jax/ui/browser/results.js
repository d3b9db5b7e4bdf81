// Files to take home: made by the server at full size from the same prompts.

const ENDINGS = { json: 'json', coco: 'coco.json', labelme: 'labelme.json', yolo: 'txt' };

async function resultOf(app, kind) {
  const { trim, soft, opacity } = app.values;
  const numbers = app.store.document.objects.map((object) => object.number);
  app.sign('Making the file');
  try {
    return await app.client.result({ state: app.state(), kind, name: app.picture.name, numbers, trim, soft, opacity });
  } finally {
    app.sign(app.client.running && 'Computing');
  }
}

export async function saveResult(app, kind) {
  const blob = await resultOf(app, kind);
  const stem = app.picture.name.replace(/\.[^.]*$/, '');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = kind in ENDINGS ? `${stem}.${ENDINGS[kind]}` : `${stem}-${kind}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export async function copyResult(app, kind) {
  if (!navigator.clipboard?.write) throw new Error('This browser lets pages copy only over https or on localhost; save the file instead.');
  // The promise is handed over at once: some browsers want the copying to begin within the click.
  await navigator.clipboard.write([new ClipboardItem({ 'image/png': resultOf(app, kind) })]);
  app.tell('Copied.', 'pet');
}
