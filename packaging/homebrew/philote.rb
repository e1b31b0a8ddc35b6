# Builds Philote from source with Homebrew on Linux. packaging/build writes this file into target/packages, beside the archive
# of the sources and with its checksum: brew install --build-from-source ./philote.rb
# To publish both, replace file://#{__dir__} with the address of the archive.
class Philote < Formula
  desc "WebSocket publish/subscribe server"
  homepage "file://#{__dir__}"
  url "file://#{__dir__}/philote-1.0.0.tar.gz"
  sha256 "@SHA256@"
  license "MIT"

  depends_on "rust" => :build
  depends_on :linux

  def install
    system "cargo", "install", *std_cargo_args
    man1.install Dir["man/*.1"]
    man5.install Dir["man/*.5"]
    man7.install Dir["man/*.7"]
    man8.install Dir["man/*.8"]
    (etc/"philote").install "packaging/philote.toml"
    %w[philote philotectl jane].each do |program|
      script = ->(shell) { Utils.safe_popen_read({ "PHILOTE_COMPLETE" => shell }, bin/program) }
      (bash_completion/program).write script.call("bash")
      (zsh_completion/"_#{program}").write script.call("zsh")
      (fish_completion/"#{program}.fish").write script.call("fish")
    end
  end

  service do
    run [opt_bin/"philote", "--config", etc/"philote/philote.toml"]
    keep_alive crashed: true
  end

  test do
    ENV["SECRET"] = "0123456789abcdef0123456789abcdef"
    system bin/"philote", "--check", "--config", etc/"philote/philote.toml"
  end
end
