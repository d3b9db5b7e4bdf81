// Examples to start with: buttons with a picture, and their files.

// `list` has [name, words, credit, and the picture of the button if the file is none].
export function examples(place, base, list, choose) {
  const buttons = list.map(([name, words, credit, picture]) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.title = `${words}. ${credit}`;
    button.setAttribute('aria-label', `Example: ${words}`);
    const image = document.createElement('img');
    image.src = `${base}files/examples/${picture ?? name}`;
    image.alt = '';
    button.append(image);
    button.onclick = () => choose(name);
    button.dataset.name = name;
    return button;
  });
  place.append(...buttons);
  return {
    first: list[0][0],
    mark: (name) => buttons.forEach((button) => button.setAttribute('aria-pressed', String(button.dataset.name === name))),
  };
}

// `null` if it is not to be had, which is said.
export async function exampleFile(app, name) {
  try {
    const response = await fetch(`${app.base}files/examples/${name}`);
    if (response.ok) return new File([await response.blob()], name);
  } catch {
    // Said below.
  }
  app.tell('The example cannot be loaded; is the server still there?', 'error');
  return null;
}
