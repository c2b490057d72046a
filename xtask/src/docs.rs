//! `cargo xtask docs`: the pages that are written from the code.

use std::fs;

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    if let Some(argument) = arguments.first() {
        return Err(Error::Usage(format!("`docs` takes no arguments, not `{argument}`")));
    }
    let cargo = &mut workspace.cargo();
    let arguments = ["run", "--quiet", "--package", "engraft-cli", "--", "operators", "--markdown"];
    let page = process::output("engraft operators", cargo.args(arguments))?;
    let path = workspace.root.join("docs/operators.md");
    fs::write(&path, page).map_err(Error::file("write", &path))?;
    println!("wrote {}", path.display());
    Ok(())
}
