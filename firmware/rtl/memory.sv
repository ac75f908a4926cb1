// What surrounds a core: the map of QEMU's `virt`, as far as the images use it. RAM at 0x80000000 with two ports and
// one cycle of latency, a serial output at 0x10000000 that is always ready, and the test finisher at 0x00100000.
module memory #(parameter int unsigned WORDS = 524288) (
  input  logic        clk,
  input  logic        rst_n,
  input  logic        instr_req,
  input  logic [31:0] instr_addr,
  output logic        instr_rvalid,
  output logic [31:0] instr_rdata,
  input  logic        data_req,
  input  logic        data_we,
  input  logic [3:0]  data_be,
  input  logic [31:0] data_addr,
  input  logic [31:0] data_wdata,
  output logic        data_rvalid,
  output logic [31:0] data_rdata
);
  localparam int unsigned BITS = $clog2(WORDS);
  logic [31:0] ram[WORDS] /* verilator public_flat_rw */;
  string image;

  initial begin
    if (!$value$plusargs("image=%s", image)) $fatal(1, "+image=FILE is missing");
    $readmemh(image, ram);
  end

  wire [BITS-1:0] instr_word = instr_addr[BITS+1:2];
  wire [BITS-1:0] data_word = data_addr[BITS+1:2];
  wire in_ram = data_addr[31];

  always_ff @(posedge clk) begin
    instr_rvalid <= rst_n & instr_req;
    data_rvalid <= rst_n & data_req;
    instr_rdata <= ram[instr_word];
    // The serial line's status: empty, ready to send.
    data_rdata <= in_ram ? ram[data_word] : 32'h0000_6000;
    if (rst_n && data_req && data_we) begin
      if (in_ram) begin
        for (int i = 0; i < 4; i++) if (data_be[i]) ram[data_word][8*i+:8] <= data_wdata[8*i+:8];
      end else if (data_addr == 32'h1000_0000) begin
        $write("%c", data_wdata[7:0]);
        if (data_wdata[7:0] == 8'h0a) $fflush;
      end else if (data_addr == 32'h0010_0000) begin
        if (data_wdata != 32'h5555) $fatal(1, "the image failed: %h", data_wdata);
        $finish;
      end
    end
  end
endmodule
