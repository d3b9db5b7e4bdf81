// Examples to start with: a thumbnail button for each, and their files.

// Each of `list` is [file, title, credit, thumbnail], the thumbnail only where the file is no image.
export function addExamples(parent, base, list, open) {
  const buttons = list.map(([name, title, credit, thumbnail]) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.title = `${title}. ${credit}`;
    button.setAttribute('aria-label', `Example: ${title}`);
    const image = document.createElement('img');
    image.src = `${base}files/examples/${thumbnail ?? name}`;
    image.alt = '';
    button.append(image);
    button.onclick = () => open(name);
    button.dataset.name = name;
    return button;
  });
  parent.append(...buttons);
  return {
    first: list[0][0],
    mark: (name) => buttons.forEach((button) => button.setAttribute('aria-pressed', String(button.dataset.name === name))),
  };
}

// `null`, with a message, if it cannot be loaded.
export async function exampleFile(tab, name) {
  try {
    const response = await fetch(`${tab.base}files/examples/${name}`);
    if (response.ok) return new File([await response.blob()], name);
  } catch {
    // As for a failed response.
  }
  tab.showMessage('The example cannot be loaded. Is the server still running?', 'error');
  return null;
}
