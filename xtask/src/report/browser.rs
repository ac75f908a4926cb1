//! Chromium over its pipe of the DevTools protocol: requests go in, answers and events come out, each JSON with a zero
//! behind it. The pipe is the third and fourth file of the process, which a shell puts there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// An answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(120);
const SHELL: &str = "exec chromium \"$@\" 3<&0 4>&1 0</dev/null 1>&2";
/// The sandbox does not work for root, who may be alone in a container; all pages are this program's own.
const OPTIONS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
];

/// The browser; it ends with this.
pub(super) struct Browser {
    child: Child,
    input: ChildStdin,
    output: Receiver<Value>,
    next: u64,
    /// What was said without being asked.
    events: Vec<Value>,
    /// A page without anything, to look at pictures in.
    empty: String,
}

impl Browser {
    /// Starts it with an own folder, which must not be anybody's.
    pub(super) fn start(folder: &Path) -> Result<Self, String> {
        let _ = std::fs::remove_dir_all(folder);
        let own = format!("--user-data-dir={}", folder.display());
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "chromium"]).args(OPTIONS).arg(own);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("chromium: {error}"))?;
        let (Some(input), Some(pipe)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("chromium: no pipe".into());
        };
        let (send, output) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut message = Vec::new();
            while pipe.read_until(0, &mut message).is_ok_and(|bytes| bytes > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if send.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self { child, input, output, next: 1, events: Vec::new(), empty: String::new() };
        browser.empty = browser.target("about:blank")?.1;
        Ok(browser)
    }

    /// Asks for something, of a page or of the browser, and waits for the answer.
    fn call(&mut self, session: Option<&str>, method: &str, parameters: Value) -> Result<Value, String> {
        let id = self.next;
        self.next += 1;
        let mut request = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        let written = write!(self.input, "{request}\0").and_then(|()| self.input.flush());
        written.map_err(|error| format!("chromium: {error}"))?;
        loop {
            let mut message = self.output.recv_timeout(PATIENCE).map_err(|error| format!("{method}: {error}"))?;
            if message["id"] != id {
                self.events.push(message);
                continue;
            }
            return match message.get("error") {
                Some(error) => Err(format!("{method}: {}", error["message"])),
                None => Ok(message["result"].take()),
            };
        }
    }

    /// Waits for an event of a page.
    fn wait(&mut self, session: &str, method: &str) -> Result<(), String> {
        let is = |event: &Value| event["method"] == method && event["sessionId"] == session;
        while !self.events.iter().any(is) {
            let message = self.output.recv_timeout(PATIENCE).map_err(|error| format!("{method}: {error}"))?;
            self.events.push(message);
        }
        Ok(())
    }

    /// A new page: its target and its session.
    fn target(&mut self, address: &str) -> Result<(String, String), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = text(&self.call(None, "Target.createTarget", json!({"url": address}))?["targetId"]);
        let attach = json!({"targetId": target, "flatten": true});
        let session = text(&self.call(None, "Target.attachToTarget", attach)?["sessionId"]);
        Ok((target, session))
    }

    /// Opens a page and waits until it is there.
    pub(super) fn open(&mut self, address: &str) -> Result<Page<'_>, String> {
        self.opened(address, true)
    }

    /// The same, with scripts of pages switched off.
    pub(super) fn open_without_script(&mut self, address: &str) -> Result<Page<'_>, String> {
        self.opened(address, false)
    }

    fn opened(&mut self, address: &str, scripts: bool) -> Result<Page<'_>, String> {
        self.events.clear();
        let (target, session) = self.target("about:blank")?;
        for domain in ["Page", "Runtime", "Log"] {
            self.call(Some(&session), &format!("{domain}.enable"), json!({}))?;
        }
        if !scripts {
            self.call(Some(&session), "Emulation.setScriptExecutionDisabled", json!({"value": true}))?;
        }
        self.events.clear();
        self.call(Some(&session), "Page.navigate", json!({"url": address}))?;
        self.wait(&session, "Page.loadEventFired")?;
        Ok(Page { browser: self, target, session })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.call(None, "Browser.close", json!({}));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A page that is open.
pub(super) struct Page<'a> {
    browser: &'a mut Browser,
    target: String,
    session: String,
}

impl Page<'_> {
    fn call(&mut self, method: &str, parameters: Value) -> Result<Value, String> {
        self.browser.call(Some(&self.session), method, parameters)
    }

    /// What a function gives for an argument, in this page.
    pub(super) fn run(&mut self, function: &str, argument: &Value) -> Result<Value, String> {
        let session = self.session.clone();
        evaluate(self.browser, &session, function, argument)
    }

    /// Window, medium and colours.
    pub(super) fn window(
        &mut self,
        width: u32,
        height: u32,
        phone: bool,
        medium: &str,
        colours: &str,
    ) -> Result<(), String> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let features = json!([{"name": "prefers-color-scheme", "value": colours}]);
        self.call("Emulation.setEmulatedMedia", json!({"media": medium, "features": features}))?;
        Ok(())
    }

    /// A picture of the whole page in a file, with what can be seen in it: different colours, the share that is not the
    /// most frequent of them, and the same share of each part, coarsely.
    pub(super) fn screenshot(&mut self, path: &Path) -> Result<Value, String> {
        // Very long pages are cut: what is below looks like what is above.
        let size = self.call("Page.getLayoutMetrics", json!({}))?["cssContentSize"].take();
        let height = size["height"].as_f64().unwrap_or(1.0).clamp(1.0, 12_000.0);
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1});
        let ask = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.call("Page.captureScreenshot", ask)?["data"].take();
        let data = picture.as_str().unwrap_or_default();
        let bytes = BASE64.decode(data).map_err(|error| error.to_string())?;
        std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let empty = self.browser.empty.clone();
        evaluate(self.browser, &empty, PICTURE, &picture)
    }

    /// Presses the tabulator.
    pub(super) fn press_tab(&mut self) -> Result<(), String> {
        for kind in ["rawKeyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            self.call("Input.dispatchKeyEvent", key)?;
        }
        Ok(())
    }

    /// Errors and warnings of scripts, of the policy, and of what could not be loaded.
    pub(super) fn complaints(&self) -> Vec<String> {
        let of = |event: &Value| {
            let parameters = &event["params"];
            let said = match event["method"].as_str()? {
                "Runtime.exceptionThrown" => &parameters["exceptionDetails"],
                "Runtime.consoleAPICalled" => &parameters["args"],
                "Log.entryAdded" => &parameters["entry"]["text"],
                _ => return None,
            };
            (event["sessionId"] == *self.session).then(|| said.to_string())
        };
        self.browser.events.iter().filter_map(of).collect()
    }

    pub(super) fn close(mut self) -> Result<(), String> {
        let target = std::mem::take(&mut self.target);
        self.browser.call(None, "Target.closeTarget", json!({"targetId": target})).map(|_| ())
    }
}

fn evaluate(browser: &mut Browser, session: &str, function: &str, argument: &Value) -> Result<Value, String> {
    let expression = format!("({function})({argument})");
    let ask = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
    let mut answer = browser.call(Some(session), "Runtime.evaluate", ask)?;
    match answer.get("exceptionDetails") {
        Some(details) => Err(format!("{}: {}", details["text"], details["exception"]["description"])),
        None => Ok(answer["result"]["value"].take()),
    }
}

/// Counts what can be seen in a picture.
const PICTURE: &str = r#"async (data) => {
  const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob());
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, picture.width, picture.height).data.buffer);
  const counts = new Map();
  for (let i = 0; i < pixels.length; i += 7) counts.set(pixels[i], (counts.get(pixels[i]) ?? 0) + 1);
  let [all, most] = [0, 0];
  for (const count of counts.values()) {
    all += count;
    most = Math.max(most, count);
  }
  // Shares of each part of the page that are not of the paper's colour, as digits: 12 parts across, a row each 100
  // points.
  const paper = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
  const [across, rows] = [12, Math.max(1, Math.round(picture.height / 100))];
  let coarse = "";
  for (let row = 0; row < rows; row++) {
    const [top, bottom] = [row, row + 1].map((edge) => Math.floor((edge * picture.height) / rows));
    for (let part = 0; part < across; part++) {
      const [left, right] = [part, part + 1].map((edge) => Math.floor((edge * picture.width) / across));
      let drawn = 0;
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) drawn += pixels[y * picture.width + x] !== paper;
      }
      coarse += Math.round(9 * Math.sqrt(drawn / ((bottom - top) * (right - left))));
    }
  }
  return { colours: counts.size, ink: 1 - most / all, coarse };
}"#;
